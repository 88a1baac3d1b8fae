"""Code use in known cases, and wrong codes that are neighbours of the right ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import codes as codes_lib
from acestep_jax.ops import fsq

LEVELS = (8, 5, 5, 5)
RNG = np.random.default_rng(0)


def test_perplexity_counts_the_codes_that_are_used_evenly():
    even = jnp.asarray([0, 3, 3, 3])
    assert codes_lib.perplexity(even) == pytest.approx(3, rel=1e-6)
    assert codes_lib.perplexity(jnp.asarray([7, 0])) == 1
    # p = 1/4, 3/4: exp(ln 4 / 4 + 3/4 ln(4/3)), by hand
    assert codes_lib.perplexity(jnp.asarray([1, 3])) == pytest.approx(1.7547654, rel=1e-6)


def test_histograms_of_batches_add_up():
    codes = RNG.integers(0, 1000, (6, 4))
    parts = sum(codes_lib.histogram(jnp.asarray(half), 1000) for half in (codes[:2], codes[2:]))
    np.testing.assert_array_equal(parts, np.bincount(codes.ravel(), minlength=1000))


def test_the_counts_of_a_channel_are_those_of_its_digits():
    codes = jnp.asarray(RNG.integers(0, 1000, 500))
    digits = np.asarray(fsq.digits_from_codes(codes, LEVELS))
    counts = codes_lib.digit_counts(codes_lib.histogram(codes, 1000), LEVELS)
    for d, own in enumerate(counts):
        np.testing.assert_array_equal(own, np.bincount(digits[:, d], minlength=LEVELS[d]))


def test_use_of_a_codebook_with_one_dead_level_is_said():
    digits = np.stack(np.meshgrid(range(8), range(4), range(5), range(5)), -1).reshape(-1, 4)
    codes = fsq.codes_from_digits(jnp.asarray(digits), LEVELS)
    use = codes_lib.usage(codes_lib.histogram(codes, 1000), LEVELS)
    assert use["used"] == pytest.approx(0.8)
    assert use["perplexity"] == pytest.approx(800, rel=1e-5)
    assert use["channel1/used"] == pytest.approx(0.8)
    assert use["channel1/rarest"] == 0
    assert use["channel0/rarest"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("levels", [LEVELS, (2, 3)])
def test_a_wrong_code_is_one_step_away_along_one_channel(levels):
    codes = jnp.asarray(RNG.integers(0, np.prod(levels), (40, 100)), jnp.int32)
    step_aside = functools.partial(codes_lib.step_aside, levels=levels, probability=0.3)
    wrong = jax.jit(step_aside)(jax.random.key(0), codes)
    steps = fsq.digits_from_codes(wrong, levels) - fsq.digits_from_codes(codes, levels)
    moved = np.abs(np.asarray(steps)).sum(-1)
    assert set(moved.ravel().tolist()) == {0, 1}
    assert abs(moved.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / codes.size)
    per_channel = np.abs(np.asarray(steps)).mean((0, 1)) / 0.3
    np.testing.assert_allclose(per_channel, 1 / len(levels), atol=4 * 0.5 / np.sqrt(1200))


def test_without_noise_codes_stay():
    codes = jnp.arange(1000)
    np.testing.assert_array_equal(
        codes_lib.step_aside(jax.random.key(0), codes, LEVELS, 0.0), codes
    )
