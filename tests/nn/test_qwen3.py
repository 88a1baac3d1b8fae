"""The causal transformer: padding on either side, and a cache that changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import lora
from acestep_jax.nn.config import PLANNERS, TEXT_ENCODERS, Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3, apart, init_cache
from tests.nn.official import hashed, load

CONFIG = Qwen3Config(
    vocab_size=40,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)
MODEL = Qwen3(CONFIG)
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)


@functools.cache
def variables():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), TOKENS)
    return {"params": load(shapes["params"], hashed)}


@jax.jit
def run(tokens, mask=None, cache=None):
    return MODEL.apply(variables(), tokens, mask=mask, cache=cache)


def _close(got, want):
    np.testing.assert_allclose(got, want, atol=2e-5)  # float32; measured 1e-6


@pytest.mark.parametrize(
    "config,count",
    [
        (TEXT_ENCODERS["qwen3_embedding_0p6b"], 595_776_512),
        # 0.6B layers and norm under a table of 217,204 rows
        (PLANNERS["planner_0p6b"], 595_776_512 + (217_204 - 151_669) * 1024),
    ],
)
def test_full_size_trees_have_the_released_parameters(config, count):
    shapes = jax.eval_shape(Qwen3(config).init, jax.random.key(0), TOKENS)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_a_token_does_not_see_the_future():
    changed = TOKENS.copy()
    changed[:, 5:] = 0
    _close(run(changed)[:, :5], run(TOKENS)[:, :5])
    assert np.abs(run(changed)[:, 5:] - run(TOKENS)[:, 5:]).max() > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side):
    widths = ((0, 0), (4, 0) if side == "left" else (0, 4))
    mask = np.pad(np.ones((2, 9), bool), widths)
    padded = run(np.pad(TOKENS, widths, constant_values=7), mask)
    _close(padded[mask].reshape(2, 9, -1), run(TOKENS))


def test_cached_equals_uncached_with_left_padding():
    mask = np.arange(9)[None] >= np.array([[0], [3]])
    whole = run(TOKENS, mask)
    prefill, cache = run(TOKENS[:, :6], mask[:, :6], init_cache(CONFIG, 2, 16))
    got = [prefill]
    for n in range(6, 9):  # one token at a time
        hidden, cache = run(TOKENS[:, n : n + 1], None, cache)
        got.append(hidden)
    got = jnp.concatenate(got, axis=1)
    _close(got[mask], whole[mask])
    assert int(cache.length) == 9
    assert cache.mask.sum(axis=1).tolist() == [9, 6]


def test_a_prefill_is_a_call_with_an_empty_cache():
    mask = np.arange(9)[None] >= np.array([[0], [3]])
    hidden, cache = run(TOKENS, mask, init_cache(CONFIG, 2, 16))
    prefill = jax.jit(lambda t, m: MODEL.apply(variables(), t, m, 16, method="prefill"))
    alone, own = prefill(TOKENS, mask)
    _close(alone[mask], hidden[mask])
    slots = np.pad(mask, ((0, 0), (0, 7)))
    for got, want in zip(own.k, cache.k, strict=True):
        _close(_in_slots(got.swapaxes(1, 2), slots), _in_slots(want.swapaxes(1, 2), slots))
    for got, want in zip(own.v, cache.v, strict=True):
        _close(_in_slots(got, slots), _in_slots(want, slots))
    np.testing.assert_array_equal(own.mask, cache.mask)
    assert int(own.length) == 9
    with pytest.raises(ValueError, match="9 tokens do not fit a cache of 4"):
        MODEL.apply(variables(), TOKENS, mask, 4, method="prefill")


def _in_slots(buffer, slots):
    """Takes what the real tokens of a layer's buffer [B · K, S, H] hold."""
    return np.asarray(buffer)[np.repeat(slots, CONFIG.num_key_value_heads, axis=0)]


@pytest.mark.parametrize("with_adapters", [False, True])
def test_weights_may_be_stacked_or_apart(with_adapters):
    params = variables()["params"]
    if with_adapters:
        spec = lora.LoRA(rank=2, targets=("q_proj", "down_proj"))
        adapters = jax.tree.map(lambda x: x + 0.1, lora.init(jax.random.key(0), params, spec))
        params = lora.WithAdapters(params, lora.collection(adapters, spec.scale))
    model, each = lora.Adapted(MODEL), apart(params)
    assert set((each.params if with_adapters else each)["layers"]) == {"0", "1"}
    mask = np.arange(9)[None] >= np.array([[0], [3]])
    tokens = np.array([[5, 6], [7, 8]])

    @jax.jit
    def go_on(params):
        whole = model.apply({"params": params}, TOKENS, mask=mask)
        _, cache = model.apply({"params": params}, TOKENS, mask, 11, method="prefill")
        return whole, *model.apply({"params": params}, tokens, cache=cache)

    want, got = go_on(params), go_on(each)
    jax.tree.map(_close, got, want)
    if with_adapters:
        plain = model.apply({"params": params.params}, TOKENS, mask=mask)
        assert np.abs(got[0] - plain).max() > 1e-2


def test_copies_of_an_item_stand_side_by_side():
    cache = run(TOKENS, None, init_cache(CONFIG, 2, 10))[1].repeat(2)
    hidden, _ = run(np.array([[1], [2], [3], [4]]), None, cache)
    for item in range(4):
        alone = run(np.append(TOKENS[item // 2], item + 1)[None])
        _close(hidden[item, 0], alone[0, -1])


def test_a_few_tokens_have_the_scores_that_they_have_among_all():
    hidden = run(TOKENS)[:, -1]
    chosen = np.array([[3, 0, 39], [7, 7, 1]])
    every = MODEL.apply(variables(), hidden[:, None], method="logits")[:, 0]
    few = MODEL.apply(variables(), hidden, chosen, method="token_logits")
    _close(few, np.take_along_axis(np.asarray(every), chosen, axis=1))


def test_a_mask_of_pairs_needs_positions():
    with pytest.raises(ValueError, match="needs positions and takes no cache"):
        MODEL.apply(variables(), TOKENS, mask=np.ones((2, 9, 9), bool))


def test_a_decoding_loop_compiles_once_and_scans():
    cache = run(TOKENS, None, init_cache(CONFIG, 2, 16))[1]

    def step(carry, _):
        token, cache = carry
        hidden, cache = MODEL.apply(variables(), token, cache=cache)
        logits = MODEL.apply(variables(), hidden, method="logits")
        token = logits[:, -1:].argmax(-1).astype(jnp.int32)
        return (token, cache), token[:, 0]

    start = TOKENS[:, -1:]
    _, tokens = jax.jit(lambda c: jax.lax.scan(step, (start, c), None, length=4))(cache)
    sequence = np.zeros((2, 14), np.int32)  # causal: what stands behind does not matter
    sequence[:, :10] = np.concatenate([TOKENS, start], axis=1)
    score = jax.jit(functools.partial(MODEL.apply, method="score"))
    for n in range(4):  # the same, from scratch each time
        best = np.asarray(score(variables(), sequence)[:, 9 + n].argmax(-1))
        np.testing.assert_array_equal(tokens[n], best)
        sequence[:, 10 + n : 11 + n] = best[:, None]


def test_scores_of_some_rows_are_a_slice_of_all():
    hidden = run(TOKENS)
    every = jax.jit(lambda h: MODEL.apply(variables(), h, method="logits"))(hidden)
    some = jax.jit(lambda h: MODEL.apply(variables(), h, (8, 20), method="logits"))(hidden)
    assert every.dtype == jnp.float32
    _close(some, every[..., 8:20])
    table = variables()["params"]["embed_tokens"]
    _close(every, np.asarray(hidden) @ table.T)
    kernel = MODEL.apply(variables(), jnp.array([3, 39]), method="head_of")
    _close(np.asarray(hidden) @ kernel, every[..., [3, 39]])


def test_an_untied_head_has_its_own_kernel():
    config = Qwen3Config(**{**vars(CONFIG), "tie_word_embeddings": False})
    shapes = jax.eval_shape(
        functools.partial(Qwen3(config).init, method="score"), jax.random.key(0), TOKENS
    )
    assert shapes["params"]["lm_head"]["kernel"].shape == (24, 40)
    params = load(shapes["params"], hashed)
    assert Qwen3(config).apply({"params": params}, jnp.array([3]), method="head_of") is None

    @jax.jit
    def scores(tokens):
        hidden = Qwen3(config).apply({"params": params}, tokens)
        some = Qwen3(config).apply({"params": params}, hidden, (8, 20), method="logits")
        return hidden, Qwen3(config).apply({"params": params}, hidden, method="logits"), some

    hidden, logits, some = scores(TOKENS)
    _close(logits, np.asarray(hidden) @ params["lm_head"]["kernel"])
    _close(some, logits[..., 8:20])


def test_more_tokens_than_slots_are_refused():
    with pytest.raises(ValueError, match="9 tokens do not fit a cache of 4"):
        MODEL.apply(variables(), TOKENS, cache=init_cache(CONFIG, 2, 4))
