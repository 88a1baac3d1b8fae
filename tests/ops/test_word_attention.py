"""Attention taught by word times: targets, and the divergence at its closed forms."""

import jax
import numpy as np
import pytest

from acestep_jax.ops import word_attention

FRAMES = np.array([[[-1, -1], [0, 4], [0, 4], [3, 8]], [[-1, -1]] * 4], np.int32)


def test_a_patch_is_shared_by_the_tokens_that_are_sung_in_it():
    wanted = word_attention.target(FRAMES, 5, 2)
    third = 1 / 3
    np.testing.assert_allclose(
        wanted[0],
        [[0, 0, 0, 0, 0], [0.5, third, 0, 0, 0], [0.5, third, 0, 0, 0], [0, third, 1, 1, 0]],
        atol=1e-7,
    )
    assert not wanted[1].any()


def test_attention_that_is_right_costs_nothing():
    wanted = word_attention.target(FRAMES, 5, 2)
    maps = np.repeat(np.asarray(wanted)[:, None], 2, axis=1)
    assert abs(float(word_attention.divergence(maps, wanted))) < 1e-5


@pytest.mark.parametrize("elsewhere", [0.0, 0.5])
def test_even_attention_costs_the_logarithm_of_the_share_and_the_caption_costs_too(elsewhere):
    wanted = word_attention.target(FRAMES, 5, 2)
    maps = np.full((2, 3, 4, 5), (1 - elsewhere) / 4)
    # patches 0 to 3 have 2, 3, 1, 1 tokens of 4
    expected = np.mean(np.log([4 / 2, 4 / 3, 4, 4])) - np.log(1 - elsewhere)
    np.testing.assert_allclose(word_attention.divergence(maps, wanted), expected, atol=2e-5)


def test_a_batch_that_sings_nothing_costs_nothing_and_teaches_nothing():
    wanted = word_attention.target(FRAMES[1:], 5, 2)
    maps = np.full((1, 1, 4, 5), 0.1)
    value, slope = jax.value_and_grad(word_attention.divergence)(maps, wanted)
    assert value == 0
    assert not np.asarray(slope).any()


def test_descent_moves_attention_onto_the_words():
    wanted = word_attention.target(FRAMES, 5, 2)

    def loss(logits):
        return word_attention.divergence(jax.nn.softmax(logits, axis=2), wanted)

    logits = np.zeros((2, 1, 4, 5), np.float32)
    descend = jax.jit(lambda x: x - 5.0 * jax.grad(loss)(x))
    for _ in range(100):
        logits = descend(logits)
    maps = jax.nn.softmax(logits, axis=2)
    assert float(loss(logits)) < 0.05
    np.testing.assert_allclose(maps[0, 0, :, :4], wanted[0, :, :4], atol=0.06)


def test_lyrics_of_others_cost_what_is_spent_on_them():
    maps = np.zeros((3, 2, 4, 5), np.float32)
    maps[0, :, 1] = 0.9  # own lyrics: of no account
    maps[1, 0, 2], maps[1, 1, 2] = 0.5, 0.75
    strange = np.array([False, True, True])
    expected = np.mean([np.log(2), np.log(4), 0, 0])
    np.testing.assert_allclose(word_attention.avoidance(maps, strange), expected, rtol=1e-6)
    assert word_attention.avoidance(maps, np.zeros(3, bool)) == 0
    whole = np.ones((1, 1, 1, 5), np.float32)
    assert np.isfinite(word_attention.avoidance(whole, np.array([True])))
