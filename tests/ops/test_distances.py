"""Distances against laws whose distance is known."""

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import distances


def test_equal_samples_have_no_error_and_independent_ones_twice_the_variance():
    x, y = 3.0 * jax.random.normal(jax.random.key(0), (2, 64, 50, 4))
    np.testing.assert_array_equal(distances.relative_error(x, x), 0.0)
    np.testing.assert_allclose(distances.relative_error(x, y).mean(), 2.0, rtol=0.03)


def test_windows_keep_frames_together():
    latents = jnp.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    cut = distances.windows(latents, 2)
    assert cut.shape == (6, 6)
    np.testing.assert_array_equal(cut[4], latents[1, 2:4].reshape(-1))


def test_energy_distance_of_shifted_gaussians_in_one_dimension():
    # E|N(d, 2)| - E|N(0, 2)|, doubled, in closed form.
    x, y = jax.random.normal(jax.random.key(0), (2, 4000, 1))
    shift, std = 0.7, 2**0.5
    mean_abs = std * np.sqrt(2 / np.pi) * np.exp(-(shift**2) / (2 * std**2)) + shift * (
        1 - 2 * 0.5 * jax.scipy.special.erfc(shift / std / 2**0.5)
    )
    expected = 2 * (mean_abs - std * np.sqrt(2 / np.pi))
    estimate = distances.energy_distance(x + shift, y)
    np.testing.assert_allclose(estimate, expected, atol=0.03)  # 4 standard errors, 4,000 draws
    assert abs(distances.energy_distance(x, y)) < 0.005


def test_spread_is_zero_when_every_seed_gives_the_same_song():
    song = jax.random.normal(jax.random.key(0), (1, 50, 4))
    assert distances.spread(jnp.repeat(song, 5, axis=0)) == 0.0
    songs = jax.random.normal(jax.random.key(1), (16, 50, 4))
    np.testing.assert_allclose(distances.spread(songs), 2**0.5, rtol=0.02)
