"""Spectral distances: known values of simple sounds, and the laws they obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import stft


def _noise(seed: int = 0, samples: int = 4096) -> jax.Array:
    return 0.1 * jax.random.normal(jax.random.key(seed), (2, samples, 2))


def test_frames_are_windowed_fourier_transforms_of_the_reflected_signal():
    audio = _noise()
    spectra = stft.stft(audio, 256)
    assert spectra.shape == (2, 2, 1 + 4096 // 64, 129)
    left = np.pad(np.asarray(audio[0, :, 0]), 128, mode="reflect")
    hann = np.hanning(257)[:-1]
    frame = left[5 * 64 : 5 * 64 + 256] * hann / np.sqrt(np.sum(hann**2))
    np.testing.assert_allclose(spectra[0, 0, 5], np.fft.rfft(frame), atol=1e-6)


@pytest.mark.parametrize("window", [32, 256, 1024])
def test_white_noise_has_its_own_deviation_under_every_window(window):
    power = jnp.mean(jnp.abs(stft.stft(_noise(), window)[..., 1:-1]) ** 2)
    np.testing.assert_allclose(power, 0.01, rtol=0.1)  # 16,384 samples, overlapping frames


def test_sum_and_difference_keep_the_energy():
    spectra = stft.stft(_noise(), 128)
    rotated = stft.mid_side(spectra)
    np.testing.assert_allclose(
        jnp.sum(jnp.abs(rotated) ** 2), jnp.sum(jnp.abs(spectra) ** 2), rtol=1e-4
    )
    mono = jnp.repeat(_noise()[..., :1], 2, axis=-1)
    np.testing.assert_allclose(stft.mid_side(stft.stft(mono, 128))[:, 1], 0, atol=1e-6)


def test_half_the_gain_is_half_the_convergence_and_a_fixed_log_distance():
    audio = _noise()
    convergence, log_magnitude = stft.spectral_distance(
        0.5 * audio, audio, windows=(256, 64), floor=1e-7, quiet=0.0
    )
    np.testing.assert_allclose(convergence, 0.5, atol=1e-4)  # |T/2| / |T|
    np.testing.assert_allclose(log_magnitude, np.log(2), atol=1e-3)  # but for the floor


def test_equal_sounds_have_no_distance_and_silence_has_a_gradient():
    audio = _noise()
    for part in stft.spectral_distance(audio, audio, windows=(64,)):
        np.testing.assert_allclose(part, 0, atol=2e-6)
    silence = jnp.zeros((1, 256, 2))

    def total(x):
        return sum(jnp.sum(part) for part in stft.spectral_distance(x, silence, windows=(64,)))

    assert bool(jnp.all(jnp.isfinite(jax.grad(total)(silence))))


def test_a_nearly_mono_target_does_not_blow_up():
    mono = jnp.repeat(_noise()[..., :1], 2, axis=-1)
    wider = mono * jnp.array([[[1.01, 0.99]]])
    convergence, _ = stft.spectral_distance(wider, mono, windows=(256,))
    assert float(jnp.max(convergence)) < 0.02  # 1 % of change is 1 % of distance


def test_a_weighting_follows_the_standard():
    gains = stft.a_weighting(10.0 ** np.array([1.5, 2, 3, 4]))  # nominally 31.5 Hz to 10 kHz
    # IEC 61672-1, table 3, in dB; rounded there to 0.1
    np.testing.assert_allclose(20 * np.log10(gains), [-39.4, -19.1, 0.0, -2.5], atol=0.06)


def test_weighting_hears_less_of_a_bass_error():
    time = jnp.arange(4096)[None, :, None] / 48_000
    target = _noise()[:1]
    bass = target + 0.05 * jnp.sin(2 * jnp.pi * 50 * time)
    plain, weighted = (
        stft.spectral_distance(bass, target, windows=(1024,), weighted=w)[0] for w in (False, True)
    )
    assert float(weighted[0]) < 0.2 * float(plain[0])


def test_ten_times_the_gain_is_one_decade_of_mel_distance():
    audio = _noise()
    np.testing.assert_allclose(
        stft.mel_distance(10 * audio, audio), 1, atol=2e-3
    )  # the floor's share
    np.testing.assert_allclose(stft.mel_distance(audio, audio), 0, atol=1e-6)


def test_mel_filters_average_a_flat_spectrum():
    filters = stft.mel_filters(2048, 80)
    mass = filters.sum(axis=0) * 48_000 / 2048
    # unit area in Hz; the lowest bands are as narrow as one bin and sampled coarsely
    np.testing.assert_allclose(mass[20:], 1, atol=0.05)


def test_si_sdr_measures_an_orthogonal_error_and_ignores_gain():
    target = jnp.stack([jnp.sin(2 * jnp.pi * jnp.arange(1000) / 100)] * 2, axis=-1)[None]
    error = jnp.stack([jnp.cos(2 * jnp.pi * jnp.arange(1000) / 100)] * 2, axis=-1)[None]
    noisy = target + 0.1 * error
    np.testing.assert_allclose(stft.si_sdr(noisy, target), 20, atol=1e-2)  # 10 log10(1 / 0.01)
    np.testing.assert_allclose(stft.si_sdr(3 * noisy, target), 20, atol=1e-2)


def test_the_stereo_image_knows_left_right_middle_and_opposite():
    one = _noise()[..., :1]
    two = _noise(1)[..., :1]
    pairs = {
        "left": ([one, 0 * one], 1, 0.5),
        "right": ([0 * one, one], -1, 0.5),
        "same": ([one, one], 0, 0),
        "opposite": ([one, -one], 0, 1),
        "unrelated": ([one, two], 0, 0.5),
    }
    for name, (channels, panning, width) in pairs.items():
        placed, wide, energy = stft.stereo_image(jnp.concatenate(channels, axis=-1))
        loud = energy / energy.sum()
        # few independent samples a band: unrelated noises agree on average alone
        np.testing.assert_allclose((loud * placed).sum(), panning, atol=0.03, err_msg=name)
        np.testing.assert_allclose((loud * wide).sum(), width, atol=0.03, err_msg=name)


def test_stereo_errors_ignore_level_and_see_collapse():
    one, two = _noise()[..., :1], _noise(1)[..., :1]
    stereo = jnp.concatenate([one, two], axis=-1)
    for error in stft.stereo_error(0.3 * stereo, stereo):
        np.testing.assert_allclose(error, 0, atol=1e-3)
    mono = jnp.repeat(stereo.mean(axis=-1, keepdims=True), 2, axis=-1)
    _, width = stft.stereo_error(mono, stereo)
    np.testing.assert_allclose(width, 0.5, atol=0.03)
    panning, width = stft.stereo_error(stereo[..., ::-1] * jnp.array([[[1.0, 0.0]]]), stereo)
    assert float(panning.min()) > 0.5  # everything stands on the left now
    with_left_alone, _ = stft.stereo_error(
        jnp.concatenate([0 * one, one], axis=-1), jnp.concatenate([one, 0 * one], axis=-1)
    )
    np.testing.assert_allclose(with_left_alone, 2, atol=1e-3)


def test_too_little_audio_is_refused():
    with pytest.raises(ValueError, match="more than 128 samples of audio; got 128"):
        stft.stft(jnp.zeros((1, 128, 2)), 256)


def test_levels_of_noise_are_its_decibels_and_a_tone_stands_in_its_band_and_frame():
    noise = 0.1 * jax.random.normal(jax.random.key(3), (4, 7680, 2))
    levels = stft.band_levels(noise, 1920, 6)
    assert levels.shape == (4, 4, 6)
    # 16 frames of 80 bins and more: the mean of a band is known to a few per cent
    np.testing.assert_allclose(jnp.mean(levels, axis=(0, 1)), -20.0, atol=0.7)

    time = jnp.arange(7680)
    tone = jnp.where((time >= 3840) & (time < 5760), jnp.sin(2 * jnp.pi * 3000 * time / 48_000), 0)
    levels = stft.band_levels(jnp.stack([tone, tone], axis=-1)[None], 1920, 6)[0]
    assert np.unravel_index(np.argmax(levels), levels.shape) == (2, 2)  # 1,945 to 4,112 Hz
    np.testing.assert_allclose(levels[0], -70.0, atol=1e-3)  # silence has the floor
