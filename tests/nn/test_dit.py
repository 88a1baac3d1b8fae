"""What a DiT must be true to, whatever its weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.config import MODELS, ModelConfig
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.layers import Quirks
from tests.nn.official import hashed, load

CONFIG = ModelConfig(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=3,  # a pair and a last sliding layer
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    encoder_hidden_size=16,
    fsq_dim=16,
    sliding_window=2,
    text_hidden_dim=16,
    audio_acoustic_hidden_dim=4,
    in_channels=12,
)
PLAIN = DiT(CONFIG)
LENGTH = 17  # odd, and longer than the window in patches
RNG = np.random.default_rng(0)


def _draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


X, CONTEXT, CONDITION = _draw(2, LENGTH, 4), _draw(2, LENGTH, 8), _draw(2, 5, 16)
T = np.array([0.9, 0.2], np.float32)


@functools.cache
def variables():
    shapes = jax.eval_shape(PLAIN.init, jax.random.key(0), X, T, CONTEXT, CONDITION)
    return {"params": load(shapes["params"], hashed, "decoder.")}


@functools.cache
def _compiled(module, method, static):
    return jax.jit(functools.partial(module.apply, method=method, **dict(static)))


def _apply(*inputs, module=PLAIN, method=None, hidden_layers=(), **arrays):
    static = (("hidden_layers", hidden_layers),) if hidden_layers else ()
    return _compiled(module, method, static)(variables(), *inputs, **arrays)


@functools.cache
def _velocity():
    return np.asarray(_apply(X, T, CONTEXT, CONDITION))


def _close(got, want, atol=2e-5):  # float32, other orders of summation; measured below 4e-6
    np.testing.assert_allclose(got, want, atol=atol)


@pytest.mark.parametrize(
    "name,count,tensors", [("turbo", 1_575_458_880, 476), ("xl_turbo", 4_168_897_088, 628)]
)
def test_full_size_trees_have_the_released_parameters(name, count, tensors):
    config = MODELS[name]
    shape = jax.ShapeDtypeStruct
    inputs = [(1, 4, 64), (1,), (1, 4, 128), (1, 2, config.encoder.width)]
    inputs = [shape(x, jnp.float32) for x in inputs]
    params = jax.eval_shape(DiT(config).init, jax.random.key(0), *inputs)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert sum(leaf.size for _, leaf in leaves) == count
    stacked = [leaf.shape[0] if "layers" in str(path) else 1 for path, leaf in leaves]
    assert sum(stacked) == tensors


def test_ready_keys_and_values_equal_the_condition_itself():
    cross = _apply(CONDITION, method="project_condition")
    assert cross.k.shape == (3, 2, 5, 2, 8)
    _close(_apply(X, T, CONTEXT, cross), _velocity())


def test_rematerialised_layers_give_the_same_gradients():
    def loss(params, remat):
        return jnp.sum(DiT(CONFIG, remat=remat).apply(params, X, T, CONTEXT, CONDITION) ** 2)

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(variables(), r) for r in (0, 1))
    # gradients reach 900 here; float32 of sums in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3), plain, again)


def test_an_item_in_a_padded_bucket_gets_the_numbers_it_gets_alone():
    lengths, tokens = (17, 10), (5, 3)
    frame_mask = np.arange(24)[None] < np.array(lengths)[:, None]
    condition_mask = np.arange(9)[None] < np.array(tokens)[:, None]

    def bucket(x, size):
        return np.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0)), constant_values=3.0)

    inputs = bucket(X, 24), T, bucket(CONTEXT, 24), bucket(CONDITION, 9)
    padded = _apply(*inputs, frame_mask=frame_mask, condition_mask=condition_mask)
    for i, (length, count) in enumerate(zip(lengths, tokens, strict=True)):
        item = slice(i, i + 1)
        alone = _apply(X[item, :length], T[item], CONTEXT[item, :length], CONDITION[item, :count])
        _close(padded[item, :length], alone)


def test_masks_are_ignored_when_absent_as_in_the_release():
    longer = np.concatenate([CONDITION, _draw(2, 3, 16)], axis=1)
    assert np.abs(_apply(X, T, CONTEXT, longer) - _velocity()).max() > 1e-2


def test_one_row_of_the_null_condition_is_enough():
    null = _draw(1, 1, 16)
    many = np.broadcast_to(null, (2, 7, 16))
    _close(_apply(X, T, CONTEXT, null), _apply(X, T, CONTEXT, many))


def test_one_condition_serves_a_whole_batch():
    cross = _apply(CONDITION[:1], method="project_condition")
    both = np.repeat(CONDITION[:1], 2, axis=0)
    _close(_apply(X, T, CONTEXT, cross), _apply(X, T, CONTEXT, both))


def test_absent_r_means_r_equals_t():
    _close(_apply(X, T, CONTEXT, CONDITION, r=T), _velocity())
    assert np.abs(_apply(X, T, CONTEXT, CONDITION, r=0 * T) - _velocity()).max() > 1e-2


def test_hidden_states_come_out_layer_by_layer():
    velocity, hidden = _apply(X, T, CONTEXT, CONDITION, hidden_layers=(0, 1, 2))
    _close(velocity, _velocity())
    assert {layer: x.shape for layer, x in hidden.items()} == dict.fromkeys(range(3), (2, 9, 24))
    # what enters the head is what the last layer left
    params = variables()["params"]
    only_head = jax.jit(functools.partial(PLAIN.apply, method=_head))(
        {"params": params}, hidden[2], T
    )
    _close(only_head[:, :LENGTH], velocity)


def _head(module, hidden, t):
    embedding, _ = module._embed_times(t, None, 2)
    shift, scale = jnp.split(module.scale_shift_table + embedding[:, None], 2, axis=1)
    return module.proj_out(module.norm_out(hidden) * (1 + scale) + shift)


def test_unknown_layers_are_refused():
    with pytest.raises(ValueError, match="layers 0 to 2"):
        _apply(X, T, CONTEXT, CONDITION, hidden_layers=(3,))


def test_attention_maps_are_the_weights_the_layer_used():
    cross = _apply(CONDITION, np.arange(5)[None] < np.array([[5], [3]]), method="project_condition")
    heads = {1: (3, 0), 2: (2,)}
    maps = jax.jit(
        lambda cross: PLAIN.apply(
            variables(), X, T, CONTEXT, cross, heads, method="cross_attention_maps"
        )
    )(cross)
    assert {k: v.shape for k, v in maps.items()} == {1: (2, 2, 9, 5), 2: (2, 1, 9, 5)}
    np.testing.assert_allclose(maps[1].sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(maps[2][1, :, :, 3:], 0)  # padding tokens
    assert np.abs(maps[1][:, 0] - maps[1][:, 1]).max() > 1e-3


def test_gradient_of_a_frame_stops_at_the_window_without_full_layers():
    config = ModelConfig(**{**vars(CONFIG), "num_hidden_layers": 1})
    module = DiT(config)
    params = variables()["params"]
    params = {**params, "layers": {"last": params["layers"]["last"]}}

    @jax.jit
    @jax.grad
    def slope(x):
        velocity = module.apply({"params": params}, x, T, CONTEXT, CONDITION)
        return velocity[0, 8].sum()  # patch 4

    reached = np.abs(np.asarray(slope(X))).sum(axis=(0, 2)) > 0
    assert np.flatnonzero(reached).tolist() == list(range(4, 14))  # patches 2 to 6


def test_forward_mode_follows_the_flow():
    direction = _draw(*X.shape)

    def velocity(x, t):
        module = DiT(CONFIG, attention="portable")
        return module.apply(variables(), x, t, CONTEXT, CONDITION, r=0 * T)

    tangents = (direction, np.ones(2, np.float32))
    _, got = jax.jit(lambda: jax.jvp(velocity, (X, T), tangents))()
    step = 1e-3
    ahead, behind = (jax.jit(velocity)(X + s * direction, T + np.float32(s)) for s in (step, -step))
    # 1000 t turns the embedding by half a radian over this step: compare the direction loosely
    slope = (ahead - behind) / (2 * step)
    cosine = np.vdot(got, slope) / np.linalg.norm(got) / np.linalg.norm(slope)
    assert cosine > 0.9


def test_lora_equals_merged_weights():
    params = variables()["params"]
    path = ("layers", "pairs", "full", "self_attn", "q_proj")
    a, b = _draw(1, 24, 2), _draw(1, 2, 32)
    scale = np.full((1, 2), 0.5, np.float32)
    adapter = _nest(path, {"lora_a": a, "lora_b": b, "scale": scale})

    @jax.jit
    def with_adapter(params, lora):
        return PLAIN.apply({"params": params, "lora": lora}, X, T, CONTEXT, CONDITION)

    merged = jax.tree.map(lambda x: x, params)
    merged["layers"]["pairs"]["full"]["self_attn"]["q_proj"]["kernel"] = (
        params["layers"]["pairs"]["full"]["self_attn"]["q_proj"]["kernel"] + 0.5 * a @ b
    )
    got = with_adapter(params, adapter)
    _close(got, with_adapter(merged, {}))
    assert np.abs(got - _velocity()).max() > 1e-3


def _nest(path, leaf):
    for name in reversed(path):
        leaf = {name: leaf}
    return leaf


@pytest.mark.parametrize("attention", ["reference", "portable", "chunked"])
def test_every_attention_gives_the_same_velocity(attention):
    _close(_apply(X, T, CONTEXT, CONDITION, module=DiT(CONFIG, attention=attention)), _velocity())


def test_bfloat16_stays_near_float32():
    module = DiT(CONFIG, dtype=jnp.bfloat16)
    got = _apply(X, T, CONTEXT, CONDITION, module=module)
    assert got.dtype == jnp.float32
    error = np.linalg.norm(got - _velocity()) / np.linalg.norm(_velocity())
    assert 1e-4 < error < 5e-2  # eight bits of mantissa over three layers


@pytest.mark.parametrize("quirk", ["bfloat16_times", "bfloat16_frequencies"])
def test_quirks_of_the_release_change_a_little(quirk):
    module = DiT(CONFIG, quirks=Quirks(**{quirk: True}))
    got = _apply(X, np.array([0.91, 0.23], np.float32), CONTEXT, CONDITION, module=module)
    want = _apply(X, np.array([0.91, 0.23], np.float32), CONTEXT, CONDITION)
    assert np.abs(got - want).max() > 0


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_velocity_and_its_gradient_lower_without_the_device(platform):
    module = DiT(CONFIG, dtype=jnp.bfloat16, remat=True)

    @jax.jit
    @jax.grad
    def slope(params):
        return jnp.sum(module.apply(params, X, T, CONTEXT, CONDITION))

    assert jax.export.export(slope, platforms=[platform])(variables()).platforms == (platform,)


def test_a_condition_of_another_width_is_refused():
    with pytest.raises(ValueError, match="12 channels but this DiT reads 16"):
        _apply(X, T, CONTEXT, _draw(2, 5, 12))


def test_a_mask_beside_ready_keys_is_refused():
    cross = _apply(CONDITION, method="project_condition")
    with pytest.raises(ValueError, match="project_condition"):
        _apply(X, T, CONTEXT, cross, condition_mask=np.ones((2, 5), bool))


def test_a_context_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="source latents, then edit mask"):
        _apply(X, T, CONTEXT[..., :4], CONDITION)
