"""Corrections of a step against direct transforms, and repainting that keeps what it must."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import corrections, editing


def _haar_correction(x, data, t, mode, low, high):
    """The same through the Haar transform itself, in NumPy."""
    frames = x.shape[1]
    pad = ((0, 0), (0, frames % 2), (0, 0))
    x, data = np.pad(x, pad), np.pad(data, pad)

    def split(signal):
        even, odd = signal[:, ::2], signal[:, 1::2]
        return (even + odd) / np.sqrt(2), (even - odd) / np.sqrt(2)

    (x_low, x_high), (data_low, data_high) = split(x), split(data)
    if mode in ("low", "double"):
        x_low = x_low + t * low * (x_low - data_low)
    if mode in ("high", "double"):
        x_high = x_high + (1 - t) * high * (x_high - data_high)
    pairs = np.stack([x_low + x_high, x_low - x_high], axis=2) / np.sqrt(2)
    return pairs.reshape(x.shape)[:, :frames]


@pytest.mark.parametrize("mode", ["low", "high", "double"])
@pytest.mark.parametrize("frames", [8, 9])
def test_the_wavelet_correction_equals_one_through_the_haar_transform(mode, frames):
    x, data = np.random.default_rng(0).standard_normal((2, 3, frames, 4), dtype=np.float32)
    got = corrections.wavelet_correction(x, data, 0.7, mode=mode, low=0.3, high=0.2)
    np.testing.assert_allclose(got, _haar_correction(x, data, 0.7, mode, 0.3, 0.2), atol=1e-6)


def test_an_odd_item_is_corrected_in_a_bucket_as_it_is_alone():
    x, data = np.random.default_rng(0).standard_normal((2, 1, 7, 4), dtype=np.float32)
    longer = [np.pad(a, ((0, 0), (0, 3), (0, 0)), constant_values=50.0) for a in (x, data - 1)]
    options = {"mode": "double", "low": 0.3, "high": 0.2}
    mask = jnp.arange(10)[None] < 7
    padded = corrections.wavelet_correction(*longer, 0.7, frame_mask=mask, **options)
    alone = corrections.wavelet_correction(x, data - 1, 0.7, **options)
    np.testing.assert_allclose(padded[:, :7], alone, atol=1e-6)


def test_a_velocity_is_shortened_to_its_bound_and_no_further():
    x_t, velocity = jnp.full((2, 3, 4), 2.0), jnp.stack([jnp.full((3, 4), 8.0), jnp.ones((3, 4))])
    limited = corrections.limit_velocity(velocity, x_t, 1.5)
    np.testing.assert_allclose(limited[0], 3.0, rtol=1e-6)
    np.testing.assert_allclose(limited[1], 1.0, rtol=1e-6)


def test_mixed_noise_keeps_its_variance_and_ends_in_the_other_noise():
    noise, other = jax.random.normal(jax.random.key(0), (2, 100_000))
    for share in (0.0, 0.3, 0.7, 1.0):
        mixed = corrections.mix_noise(noise, other, share)
        np.testing.assert_allclose(jnp.std(mixed), 1.0, atol=0.01)  # 4 standard errors
    np.testing.assert_allclose(mixed, other, atol=1e-5)


def _mask(frames, first, last):
    place = jnp.arange(frames)
    return ((place >= first) & (place < last))[None]


def test_ramps_lie_outside_the_range_and_stop_at_the_ends_of_the_song():
    ramps = editing.ramp_mask(_mask(12, 2, 7), 3)
    third, quarter = 1 / 3, 1 / 4  # two frames of room on the left, three on the right
    expected = [third, 2 * third, *5 * [1], 3 * quarter, 2 * quarter, quarter, 0, 0]
    np.testing.assert_allclose(ramps[0], expected, atol=1e-6)
    np.testing.assert_array_equal(editing.ramp_mask(_mask(5, 0, 5), 3), jnp.ones((1, 5)))
    np.testing.assert_array_equal(editing.ramp_mask(_mask(5, 1, 3), 0)[0], [0, 1, 1, 0, 0])


def test_a_crossfade_leaves_all_beyond_the_ramps_bit_for_bit():
    source = jax.random.normal(jax.random.key(0), (1, 12, 4))
    edited = jnp.full((1, 12, 4), jnp.inf).at[:, 3:10].set(1.0)
    blended = editing.crossfade(edited, source, _mask(12, 5, 8), 2)
    np.testing.assert_array_equal(blended[:, :3], source[:, :3])
    np.testing.assert_array_equal(blended[:, 10:], source[:, 10:])
    np.testing.assert_array_equal(blended[:, 5:8], 1.0)


def test_outside_the_range_the_state_is_back_on_the_path_to_the_source():
    keys = jax.random.split(jax.random.key(0), 3)
    x, source, noise = (jax.random.normal(key, (1, 6, 2)) for key in keys)
    held = editing.hold_outside(x, _mask(6, 2, 4), source, noise, jnp.float32(0.25))
    np.testing.assert_array_equal(held[:, 2:4], x[:, 2:4])
    np.testing.assert_allclose(held[:, 4:], 0.25 * noise[:, 4:] + 0.75 * source[:, 4:], atol=1e-6)
