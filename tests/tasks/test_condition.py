"""Conditions: what reaches the DiT, and from where."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.tasks import condition
from tests import tiny

B, T, C = 2, 12, tiny.CONFIG.audio_acoustic_hidden_dim


def _inputs(**changes):
    keys = jax.random.split(jax.random.key(3), 4)
    fields = dict(
        text_tokens=jax.random.randint(keys[0], (B, 5), 0, 40),
        text_mask=jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool),
        lyric_tokens=jax.random.randint(keys[1], (B, 6), 0, 40),
        lyric_mask=jnp.asarray([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool),
        timbre_latents=jax.random.normal(keys[2], (B, 6, C)),
        source_latents=jax.random.normal(keys[3], (B, T, C)),
        edit_mask=jnp.ones((B, T)),
        is_cover=jnp.asarray([0, 1]),
    )
    return types.SimpleNamespace(**(fields | changes))


@functools.partial(jax.jit, static_argnames="covers")
def _made(params, fields, silence, covers):
    inputs = types.SimpleNamespace(**fields)
    return condition.make_conditions(tiny.networks(), params, inputs, silence, covers=covers)


def _conditions(inputs, covers=True):
    return _made(tiny.params(), vars(inputs), jnp.zeros((1, 8, C)), covers)


def test_valid_tokens_come_first_and_are_counted():
    made = _conditions(_inputs())
    np.testing.assert_array_equal(made.mask.sum(axis=1), [2 + 1 + 5, 6 + 1 + 3])
    assert made.tokens.shape == (B, 6 + 1 + 5, tiny.CONFIG.encoder.width)
    assert not np.diff(made.mask.astype(int), axis=1).clip(0).any()  # never false, then true


def test_what_stands_in_padding_does_not_reach_valid_tokens():
    inputs = _inputs()
    changed = _inputs(
        text_tokens=jnp.where(inputs.text_mask, inputs.text_tokens, 7),
        lyric_tokens=jnp.where(inputs.lyric_mask, inputs.lyric_tokens, 9),
    )
    a, b = _conditions(inputs), _conditions(changed)
    valid = a.mask[..., None]
    np.testing.assert_allclose(
        np.where(valid, a.tokens, 0), np.where(valid, b.tokens, 0), atol=1e-5
    )


def test_only_covers_read_their_source_through_the_codes():
    inputs = _inputs()
    source = _conditions(inputs).context[..., :C]
    np.testing.assert_array_equal(source[0], inputs.source_latents[0])
    hints = jax.jit(functools.partial(condition.cover_hints, tiny.networks()))(
        tiny.params(), inputs.source_latents, jnp.zeros((1, 8, C))
    )
    np.testing.assert_allclose(source[1], hints[1], atol=1e-6)
    assert hints.shape == inputs.source_latents.shape  # 12 frames are no whole number of codes


def test_skipping_the_codes_changes_nothing_when_no_item_is_a_cover():
    inputs = _inputs(is_cover=jnp.zeros(B, jnp.int32))
    with_codes, without = _conditions(inputs), _conditions(inputs, covers=False)
    np.testing.assert_array_equal(with_codes.context, without.context)


def test_context_holds_source_then_mask():
    mask = jnp.asarray([[1.0, 0.0, 1.0]])
    context = condition.frame_context(jnp.full((1, 3, 2), 5.0), mask)
    np.testing.assert_array_equal(context[0], [[5, 5, 1, 1], [5, 5, 0, 0], [5, 5, 1, 1]])


def test_text_states_made_beforehand_stand_in_for_the_text_encoder():
    inputs = _inputs()
    text, lyric = condition.encode_text(tiny.networks(), tiny.params(), inputs)
    given = _inputs(text_states=text, lyric_states=lyric)
    without_encoder = {k: v for k, v in tiny.params().items() if k != "text_encoder"}
    made = _made(without_encoder, vars(given), jnp.zeros((1, 8, C)), False)
    expected = _conditions(inputs, covers=False)
    np.testing.assert_allclose(made.tokens, expected.tokens, atol=1e-5)


def test_codes_made_beforehand_stand_in_for_the_tokenizer():
    inputs, networks, params = _inputs(), tiny.networks(), tiny.params()
    silence = jnp.zeros((1, 8, C))
    tokenize = jax.jit(lambda p: networks.tokenizer.apply(p, inputs.source_latents, silence)[1])
    codes = tokenize({"params": params["tokenizer"]})
    made = _conditions(_inputs(codes=codes))
    np.testing.assert_allclose(made.context, _conditions(inputs).context, atol=1e-5)


def test_behind_the_last_code_hints_are_silence_from_its_start():
    codes = jnp.asarray([[3, 7, -1], [5, -1, -1]])
    silence = -1.0 - jnp.arange(4.0)[None, :, None] * jnp.ones((1, 1, C))  # -1, -2, -3, -4, again

    @jax.jit
    def decode(codes):
        return condition.code_hints(tiny.networks(), tiny.params(), codes, T, silence)

    hints = decode(codes)
    assert hints.shape == (B, T, C)
    np.testing.assert_array_equal(hints[0, 10:, 0], [-1, -2])
    np.testing.assert_array_equal(hints[1, 5:, 0], [-1, -2, -3, -4, -1, -2, -3])
