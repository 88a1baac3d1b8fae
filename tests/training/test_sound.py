"""Loudness and spectra of sounds whose levels are known."""

import numpy as np

from acestep_jax.training import sound
from acestep_jax.units import SAMPLE_RATE


def _sine(hertz, amplitude=1.0, seconds=1.0):
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = amplitude * np.sin(2 * np.pi * hertz * time)
    return np.stack([wave, wave], axis=-1)[None].astype(np.float32)


def test_a_full_sine_is_three_decibels_below_full_scale_and_half_of_it_nine():
    np.testing.assert_allclose(sound.loudness(_sine(440)), -3.01, atol=0.01)
    np.testing.assert_allclose(sound.loudness(_sine(440, 0.5)), -9.03, atol=0.01)
    assert sound.loudness(_sine(440)).shape == (1, 2)  # whole moments of 0.4 s
    np.testing.assert_allclose(sound.loudness(0 * _sine(440)), -80.0, atol=1e-6)


def test_a_sine_stands_out_in_its_own_third_of_an_octave():
    for hertz in (200.0, 1000.0, 8000.0):
        curve = sound.spectrum_curve(_sine(hertz))
        octaves, _ = max(curve, key=lambda point: point[1])
        assert abs(octaves - np.log2(hertz / 1000)) < 1 / 3


def test_turning_a_sound_down_moves_every_measure_by_as_much():
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, SAMPLE_RATE, 2))
    quieter = sound.measure(0.5 * noise, noise)
    half = 20 * np.log10(2)
    np.testing.assert_allclose(quieter["pair, dB"], half, atol=0.05)  # 0.05: bins at the floor
    np.testing.assert_allclose(quieter["mean spectrum, dB"], half, atol=0.05)
    np.testing.assert_allclose(quieter["loudness, dB"], -20 - half, atol=0.05)
    same = sound.measure(noise, noise)
    assert same["pair, dB"] == same["mean spectrum, dB"] == 0.0


def test_loudness_is_drawn_over_time():
    loud, soft = _sine(440, 0.5, seconds=0.4), _sine(440, 0.05, seconds=0.4)
    curve = sound.loudness_curve(np.concatenate([loud, soft], axis=1))
    np.testing.assert_allclose([t for t, _ in curve], [0.2, 0.6])
    np.testing.assert_allclose(curve[0][1] - curve[1][1], 20.0, atol=0.01)
