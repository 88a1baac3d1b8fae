"""The condition and the codes: padding is inert, references find their item, codes return."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.config import MODELS, ModelConfig
from acestep_jax.nn.layers import Quirks
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from tests.nn.official import hashed, load

CONFIG = ModelConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    fsq_dim=16,
    sliding_window=3,
    num_lyric_encoder_hidden_layers=2,
    num_timbre_encoder_hidden_layers=1,
    text_hidden_dim=12,
    audio_acoustic_hidden_dim=4,
    in_channels=12,
    timbre_hidden_dim=4,
)
RNG = np.random.default_rng(0)


def _draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


TEXT, LYRIC, CLIPS = _draw(2, 4, 12), _draw(2, 7, 12), _draw(2, 10, 4)
TEXT_MASK = np.arange(4)[None] < np.array([[4], [2]])
LYRIC_MASK = np.arange(7)[None] < np.array([[7], [3]])
LATENTS, SILENCE = _draw(2, 17, 4), _draw(1, 40, 4)
ENCODER, TOKENIZER, DETOKENIZER = (
    module(CONFIG) for module in (ConditionEncoder, AudioTokenizer, Detokenizer)
)


@functools.cache
def variables(module):
    inputs = {
        ENCODER: (TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, CLIPS),
        TOKENIZER: (LATENTS, SILENCE),
        DETOKENIZER: (_draw(2, 3, 16),),
    }[module]
    return {"params": load(_shapes(module, *inputs)["params"], hashed)}


def _shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def run(module, *inputs, method=None, of=None, **static):
    call = functools.partial((of or module).apply, variables(module), method=method, **static)
    return jax.jit(call)(*inputs)


def encode(*inputs, **static):
    return run(ENCODER, *inputs, **static)


@pytest.mark.parametrize("name", ["turbo", "xl_turbo"])
def test_full_size_trees_have_the_released_parameters(name):
    config = MODELS[name]

    def zeros(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    text, mask, clip = zeros(1, 2, 1024), zeros(1, 2), zeros(1, 6, 64)
    counts = [
        _shapes(ConditionEncoder(config), text, mask, text, mask, clip),
        _shapes(AudioTokenizer(config), clip, zeros(1, 9, 64)),
        _shapes(Detokenizer(config), zeros(1, 2, 2048)),
    ]
    counts = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in counts]
    assert counts == [608_367_616, 105_032_198, 105_011_776]


def test_an_item_in_a_padded_bucket_gets_the_tokens_it_gets_alone():
    condition, mask = encode(TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, CLIPS)
    for i, (texts, lyrics) in enumerate([(4, 7), (2, 3)]):
        item = slice(i, i + 1)
        alone, alone_mask = encode(
            TEXT[item, :texts],
            TEXT_MASK[item, :texts],
            LYRIC[item, :lyrics],
            LYRIC_MASK[item, :lyrics],
            CLIPS[item],
        )
        assert alone_mask.all()
        np.testing.assert_array_equal(mask[i], np.arange(12) < texts + lyrics + 1)
        np.testing.assert_allclose(condition[i][mask[i]], alone[0], atol=2e-6)


def test_references_go_to_their_items():
    clips, owner = _draw(3, 10, 4), np.array([1, 0, 1])
    condition, mask = run(ENCODER, TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, clips, timbre_owner=owner)
    assert condition.shape == (2, 7 + 2 + 4, 16)  # two slots an item, counted from the owners
    assert mask.sum(axis=1).tolist() == [7 + 1 + 4, 3 + 2 + 2]
    first, second = (
        encode(TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, clips[list(pick)])[0]
        for pick in ((1, 0), (1, 2))
    )
    np.testing.assert_allclose(condition[1, 3], first[1, 3], atol=2e-6)
    np.testing.assert_allclose(condition[1, 4], second[1, 3], atol=2e-6)


def test_owners_known_only_at_run_time_leave_room_for_all_clips():
    inputs = TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, CLIPS
    traced, traced_mask = encode(*inputs, np.array([0, 1]))
    plain, plain_mask = encode(*inputs)
    assert traced.shape[1] == plain.shape[1] + 1
    np.testing.assert_array_equal(traced_mask.sum(1), plain_mask.sum(1))
    np.testing.assert_allclose(traced[0, :12], plain[0], atol=2e-6)


@pytest.mark.parametrize(
    "owner,options,message",
    [
        (None, {}, "pass timbre_owner"),
        (np.array([0, 0, 2]), {}, "names item 2 of 2"),
        (np.array([0, 0, 1]), {"max_refs": 1}, "2 reference clips but max_refs is 1"),
    ],
)
def test_clips_without_a_place_are_refused(owner, options, message):
    inputs = TEXT, TEXT_MASK, LYRIC, LYRIC_MASK, _draw(3, 10, 4)
    with pytest.raises(ValueError, match=message):
        encode(*inputs, timbre_owner=owner, **options)


def test_the_last_window_is_completed_with_silence():
    completed = np.concatenate([LATENTS, np.repeat(SILENCE[:, :3], 2, axis=0)], axis=1)
    odd = run(TOKENIZER, LATENTS, SILENCE)
    even = run(TOKENIZER, completed, SILENCE)
    np.testing.assert_array_equal(odd[1], even[1])
    np.testing.assert_allclose(odd[0], even[0], atol=1e-6)


def test_an_item_in_a_padded_bucket_gets_the_codes_it_gets_alone():
    bucket = np.pad(LATENTS, ((0, 0), (0, 9), (0, 0)), constant_values=3.0)
    lengths = (17, 11)
    frame_mask = np.arange(26)[None] < np.array(lengths)[:, None]
    _, codes = run(TOKENIZER, bucket, SILENCE, frame_mask)
    for i, length in enumerate(lengths):
        _, alone = run(TOKENIZER, LATENTS[i : i + 1, :length], SILENCE)
        np.testing.assert_array_equal(codes[i, : alone.shape[1]], alone[0])


def test_codes_lead_back_to_their_vectors():
    quantized, codes = run(TOKENIZER, LATENTS, SILENCE)
    assert codes.dtype == jnp.int32
    assert codes.shape == (2, 4)
    again = run(TOKENIZER, codes, method="decode_codes")
    np.testing.assert_allclose(again, quantized, atol=1e-6)
    assert run(DETOKENIZER, quantized).shape == (2, 20, 4)


def test_windows_do_not_see_one_another():
    quantized = _draw(1, 3, 16)
    other = quantized.copy()
    other[:, 1] += 1
    one, two = run(DETOKENIZER, quantized), run(DETOKENIZER, other)
    changed = np.abs(one - two).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(changed, np.arange(15) // 5 == 1)


def test_the_gradient_passes_the_rounding():
    @jax.jit
    @jax.grad
    def slope(latents):
        return TOKENIZER.apply(variables(TOKENIZER), latents, SILENCE)[0].sum()

    per_window = np.abs(np.asarray(slope(LATENTS)))[:, :15].reshape(2, 3, -1).sum(-1)
    assert (per_window > 0).all()


def test_the_codebook_quirk_changes_vectors_but_not_codes():
    rounded = AudioTokenizer(CONFIG, quirks=Quirks(bfloat16_codebook=True))
    exact, codes = run(TOKENIZER, LATENTS, SILENCE)
    again = run(TOKENIZER, codes, method="decode_codes", of=rounded)
    assert 1e-5 < np.abs(again - exact).max() < 2e-2  # a level is off by 0.003 at most


def test_too_little_silence_is_refused():
    mask = np.ones((2, 17), bool)
    with pytest.raises(ValueError, match="silence latent has 4 frames"):
        run(TOKENIZER, LATENTS, SILENCE[:, :4], mask)
