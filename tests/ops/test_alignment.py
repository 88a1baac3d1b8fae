"""Scores of maps whose score is known: golden ones of the release, and blocks counted by hand."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import alignment, dtw

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/rewards"
RELEASED = alignment.Rules()
TOKENS, FRAMES, LENGTH = 12, 144, 12  # as many blocks of twelve frames as there are tokens


@functools.partial(jax.jit, static_argnums=4)
def _score(maps, sung, tokens, frames, rules):
    sizes = alignment.Sizes(tokens, frames)
    return alignment.score(alignment.energy(maps, sizes, rules), sung, sizes, rules)


def scored(*maps, sung=None, rules=RELEASED):
    """Scores maps [N, M] as one padded batch of one shape."""
    batch = np.random.default_rng(0).random((8, 1, TOKENS + 1, FRAMES + 6)).astype(np.float32)
    real = np.zeros((8, 2), np.int32)
    words = np.ones((8, TOKENS + 1), bool)
    for item, one in enumerate(maps):
        batch[item, 0, : one.shape[0], : one.shape[1]], real[item] = one, one.shape
        words[item, : one.shape[0]] = True if sung is None else sung
    return _score(batch, words, real[:, 0], real[:, 1], rules)[0]


def blocks(order=range(TOKENS), silent=(), length=LENGTH):
    """Token i is sung in the block order[i], for the first `length` frames of it."""
    one = np.zeros((TOKENS, FRAMES))
    for token, place in enumerate(order):
        if token not in silent:
            one[token, place * LENGTH : place * LENGTH + length] = 1
    return one


def swapped(a, b):
    order = list(range(TOKENS))
    order[a], order[b] = order[b], order[a]
    return blocks(order)


def test_scores_of_blocks_are_those_counted_by_hand():
    # A path from block to block has 144 + 11 cells. Swapped tokens break two of 11 neighbourhoods.
    cases = {
        "perfect": (blocks(), 144 / 155),
        "reversed": (blocks(reversed(range(TOKENS))), 0.0),
        "one frame a token": (1 + 1e-3 * blocks(length=1), 12 / 155),
        "three silent": (blocks(silent=(2, 5, 9)), (9 / 12) ** 2 * 108 / 155),
        "two swapped": (swapped(3, 8), (9 / 11) ** 2 * 120 / 155),
    }
    got = scored(*(one for one, _ in cases.values()))
    for item, (name, (_, expected)) in enumerate(cases.items()):
        np.testing.assert_allclose(got.score[item], expected, atol=1e-6, err_msg=name)


def test_maps_without_a_song_in_them():
    tags = np.zeros(TOKENS, bool)
    ramp = np.linspace(0, 1, 5)[None]
    empty, flat, one_frame = np.zeros((0, 4)), np.full((3, 7), 0.2), blocks()[:, :1]
    got = scored(flat, ramp, one_frame, empty)
    np.testing.assert_array_equal(got.score[0], 0)
    np.testing.assert_array_equal(got.coverage[0], 0)
    np.testing.assert_allclose(got[2][1], 0.5)  # one token: the path is all frames
    np.testing.assert_array_equal(got.monotonicity[1], 1)
    np.testing.assert_allclose(got.score[2], (1 / 12) ** 3, rtol=1e-6)  # one frame: all tokens
    np.testing.assert_array_equal(got.score[3], 0)
    only_tags = scored(blocks(), sung=tags)
    np.testing.assert_array_equal([only_tags.coverage[0], only_tags.monotonicity[0]], 1)
    np.testing.assert_allclose(only_tags.score[0], 144 / 155, rtol=1e-6)


def golden(name):
    data = np.load(GOLDEN / f"{name}.npz")
    config = json.loads(str(data["meta"]))["config"]
    chosen = [data["attention"][int(layer), h] for layer, heads in config.items() for h in heads]
    return np.stack(chosen), data


@pytest.mark.parametrize("name", ["align_default", "align_utf8"])
def test_padded_maps_give_the_numbers_of_the_release(name):
    maps, data = golden(name)
    heads, tokens, frames = maps.shape
    padded = np.random.default_rng(0).random((2, heads, tokens + 2, frames + 3)).astype(np.float32)
    padded[0, :, :tokens, :frames] = maps
    sizes = alignment.Sizes(jnp.array([tokens, 3]), jnp.array([frames, 7]))
    sung = np.pad(data["sc_type_mask"], (0, 2), constant_values=1)[None].repeat(2, 0)

    @jax.jit
    def run(maps):
        energies = alignment.energy(maps, sizes)
        sharp = alignment.sharpen(maps, sizes)
        return energies, *alignment.score(energies, sung, sizes), sharp, dtw.warp(-sharp, *sizes)

    energies, scores, path, sharp, times = run(padded)
    real = np.s_[0, :tokens, :frames]
    np.testing.assert_allclose(energies[real], data["sc_energy"], atol=5e-7)  # measured 1.2e-7
    np.testing.assert_allclose(sharp[real], data["st_calc"], atol=2e-5)  # measured 2e-6
    np.testing.assert_array_equal(dtw.steps(path), data["sc_path"])
    np.testing.assert_array_equal(dtw.steps(times), data["st_path"])
    for part in ("coverage", "monotonicity", "confidence"):
        np.testing.assert_allclose(getattr(scores, part)[0], data[f"sc_{part}"], atol=1e-6)
    np.testing.assert_allclose(scores.score[0], data["sc_score"], atol=5.1e-5)  # rounded to 4


def test_parts_of_the_score_can_be_left_out():
    got = scored(swapped(3, 8), rules=alignment.Rules(powers=(2, 0, 1)))
    np.testing.assert_allclose(got.score[0], 120 / 155, rtol=1e-6)
    np.testing.assert_allclose(got.monotonicity[0], 9 / 11, rtol=1e-6)


def test_tokens_without_energy_are_passed_over():
    one = blocks(order=[0, 1, 11, 3, *range(4, TOKENS)])
    one[2] = 0  # the one out of order is silent
    mono = alignment.monotonicity(jnp.asarray(one[None], jnp.float32), jnp.ones((1, TOKENS), bool))
    np.testing.assert_array_equal(mono, 1)


def test_thresholds_of_float32_energies_are_those_of_float64():
    # float32(0.1) is above 0.1: the release, which compares in float64, counts it as heard
    energies = jnp.full((1, 1, 1), np.float32(0.1))
    np.testing.assert_array_equal(alignment.coverage(energies, jnp.ones((1, 1), bool)), 1)
    below = jnp.nextafter(energies, 0.0)
    np.testing.assert_array_equal(alignment.coverage(below, jnp.ones((1, 1), bool)), 0)


@pytest.mark.parametrize("width", [3, 7])
def test_the_median_filter_mirrors_the_ends_of_what_is_real(width):
    rng, reach = np.random.default_rng(1), width // 2
    x = rng.random((2, 3, 12)).astype(np.float32)
    got = alignment.median_filter(jnp.asarray(x), jnp.array([[12], [9]]), width)
    for item, frames in enumerate([12, 9]):
        mirrored = np.pad(x[item, :, :frames], ((0, 0), (reach, reach)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(mirrored, width, axis=-1)
        np.testing.assert_array_equal(got[item, :, :frames], np.median(windows, axis=-1))
    short = alignment.median_filter(jnp.asarray(x), jnp.array([[reach], [reach]]), width)
    np.testing.assert_array_equal(short, x)


def test_an_even_median_filter_is_refused():
    with pytest.raises(ValueError, match="odd width"):
        alignment.Rules(medfilt_width=2)
