"""Distances between sounds, measured on short-time spectra.

A short-time Fourier transform with window w and hop w/4 of stereo audio [B, W, 2]. The transform is
linear, so that the spectra of the sum (L + R)/√2 and the difference (L − R)/√2 cost nothing beyond
those of left and right. Windows are normalised to unit energy: white noise of deviation σ has
magnitudes near σ under every window, and one floor fits them all.

Losses are one value an example. Sources: multi-resolution loss, Yamamoto et al. 2020,
arXiv:1910.11480; sum and difference, Steinmetz et al. 2021, arXiv:2010.10291; A-weighting, IEC
61672-1.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from acestep_jax.typing import Array

WINDOWS = (2048, 1024, 512, 256, 128, 64, 32)
"""The released trainer's resolutions."""


def stft(audio: Array, window: int) -> Array:
    """Transforms [..., W, channels] to complex spectra [..., channels, frames, window/2 + 1].

    Frames are centred every window/4 samples on the reflected signal: 1 + floor(4W / window) of
    them, under a periodic Hann window of unit energy.

    Raises:
      ValueError: if the window is no multiple of 4 or the audio is not longer than half of it.
    """
    samples = audio.shape[-2]
    if window % 4 or samples <= window // 2:
        raise ValueError(
            f"a window of {window} samples needs a length divisible by 4 and more than "
            f"{window // 2} samples of audio; got {samples}."
        )
    hop = window // 4
    signal = jnp.swapaxes(audio, -1, -2).astype(jnp.float32)
    edges = [(0, 0)] * (signal.ndim - 1) + [(window // 2, window // 2)]
    signal = jnp.pad(signal, edges, mode="reflect")
    rows = signal.shape[-1] // hop
    signal = signal[..., : rows * hop].reshape(*signal.shape[:-1], rows, hop)
    frames = jnp.concatenate([signal[..., i : rows - 3 + i, :] for i in range(4)], axis=-1)
    shape = _hann(window).reshape((1,) * (frames.ndim - 1) + (window,))
    return jnp.fft.rfft(frames * shape, axis=-1)


def _hann(window: int) -> np.ndarray:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return (hann / np.sqrt(np.sum(hann**2))).astype(np.float32)


def mid_side(spectra: Array) -> Array:
    """Turns left and right [..., 2, frames, bins] into sum and difference, both over √2."""
    left, right = spectra[..., 0, :, :], spectra[..., 1, :, :]
    return jnp.stack([left + right, left - right], axis=-3) * math.sqrt(0.5)


def a_weighting(frequencies: np.ndarray) -> np.ndarray:
    """Evaluates the ear's sensitivity R_A(f) relative to 1 kHz (IEC 61672-1), as a gain."""

    def response(f: np.ndarray) -> np.ndarray:
        square = np.square(np.asarray(f, np.float64))
        poles = np.sqrt((square + 107.7**2) * (square + 737.9**2))
        return 12194**2 * square**2 / ((square + 20.6**2) * poles * (square + 12194**2))

    return (response(frequencies) / response(np.array(1000.0))).astype(np.float32)


def spectral_distance(
    prediction: Array,
    target: Array,
    *,
    windows: Sequence[int] = WINDOWS,
    floor: float = 1e-4,
    quiet: float = 1e-2,
    weighted: bool = False,
    sample_rate: int = 48_000,
) -> tuple[Array, Array]:
    """Measures spectral convergence and log-magnitude error, averaged over resolutions.

    With magnitudes P and T of left, right, sum and difference:
      convergence   = ‖T − P‖ / sqrt(‖T‖² + ‖quiet‖²), norms over a stereo pair together;
      log_magnitude = mean |log P − log T|.
    Neither a nearly mono clip, whose difference channel is almost silent, nor a fade-out divides by
    next to nothing: a pair shares its norm, which never falls below that of quiet noise.

    Args:
      prediction: [B, W, 2].
      target: [B, W, 2].
      windows: resolutions in samples.
      floor: added to magnitudes in quadrature; 1e-4 is noise at -80 dB of full scale.
      quiet: magnitude of noise that a target is at least compared with; 1e-2 is -40 dB. 0 gives
        the textbook ratio.
      weighted: whether to weight magnitudes by the ear's sensitivity (A-weighting).
      sample_rate: needed by the weighting alone.

    Returns:
      (convergence [B], log_magnitude [B]).
    """
    convergence, log_magnitude = 0.0, 0.0
    for window in windows:
        gain = np.ones(window // 2 + 1, np.float32)
        if weighted:
            gain = a_weighting(np.fft.rfftfreq(window, 1 / sample_rate))
        ours, theirs = (
            _magnitudes(stft(audio, window), gain, floor) for audio in (prediction, target)
        )
        error = jnp.sum(jnp.square(ours - theirs), axis=(2, 3, 4))
        energy = jnp.sum(jnp.square(theirs) + quiet**2, axis=(2, 3, 4))
        convergence += jnp.mean(jnp.sqrt(error / energy + 1e-12), axis=1)
        log_magnitude += jnp.mean(jnp.abs(jnp.log(ours / theirs)), axis=(1, 2, 3, 4))
    return convergence / len(windows), log_magnitude / len(windows)


def _magnitudes(spectra: Array, gain: np.ndarray, floor: float) -> Array:
    """Returns [B, pair, 2, frames, bins]: (left, right) and (sum, difference)."""
    pairs = jnp.stack([spectra, mid_side(spectra)], axis=1)
    power = jnp.square(pairs.real) + jnp.square(pairs.imag)
    return jnp.sqrt(power * np.square(gain)[None, None, None, None] + floor**2)


def mel_filters(window: int, bands: int, sample_rate: int = 48_000) -> np.ndarray:
    """Builds triangular filters [window/2 + 1, bands], equal in area, on the mel scale.

    mel(f) = 2595 log10(1 + f / 700), from 0 to half the sample rate.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(window, 1 / sample_rate)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


def mel_distance(
    prediction: Array, target: Array, *, window: int = 2048, bands: int = 80, floor: float = 1e-5
) -> Array:
    """Measures mean |log10 M(prediction) − log10 M(target)| over mel magnitudes: [B, W, 2] -> [B].

    0.1 is a typical level error of 2 dB a band. Magnitudes are floored at `floor`.
    """
    filters = jnp.asarray(mel_filters(window, bands))
    # filters of unit area in Hz: multiplied by the bandwidth of a bin they average magnitudes
    spacing = 48_000 / window

    def log_mel(audio: Array) -> Array:
        return jnp.log10(jnp.abs(stft(audio, window)) @ filters * spacing + floor)

    return jnp.mean(jnp.abs(log_mel(prediction) - log_mel(target)), axis=(1, 2, 3))


def band_levels(audio: Array, hop: int, bands: int, *, floor_db: float = -70.0) -> Array:
    """Measures how loud every mel band of every latent frame is, in dB.

    A frame of `hop` samples is as loud as the three windows of that length which are centred in it
    a quarter, a half and three quarters of the way, both channels together.

    Args:
      audio: [B, W, 2], W a multiple of `hop`.
      hop: samples a frame.
      bands: how many triangular bands the mel scale is divided into.
      floor_db: the level of silence.

    Returns:
      [B, W / hop, bands]; white noise of deviation 1 has 0 dB in every band.
    """
    spectra = stft(audio, hop)
    power = jnp.mean(jnp.square(spectra.real) + jnp.square(spectra.imag), axis=-3)
    power = power @ jnp.asarray(mel_filters(hop, bands)) * (48_000 / hop)
    frames = power[..., :-1, :].reshape(*power.shape[:-2], -1, 4, bands)
    return 10 * jnp.log10(jnp.mean(frames[..., 1:, :], axis=-2) + 10 ** (floor_db / 10))


def si_sdr(prediction: Array, target: Array) -> Array:
    """Measures 10 log10(‖a·target‖² / ‖a·target − prediction‖²) in dB, a = <p, t>/<t, t>.

    Channels share one scale. [B, W, 2] -> [B]. Source: Le Roux et al. 2019, arXiv:1811.02508.
    """
    prediction = prediction - jnp.mean(prediction, axis=1, keepdims=True)
    target = target - jnp.mean(target, axis=1, keepdims=True)
    dot = jnp.sum(prediction * target, axis=(1, 2), keepdims=True)
    scaled = dot / (jnp.sum(jnp.square(target), axis=(1, 2), keepdims=True) + 1e-12) * target
    error = jnp.sum(jnp.square(scaled - prediction), axis=(1, 2))
    signal = jnp.sum(jnp.square(scaled), axis=(1, 2))
    return 10 * jnp.log10((signal + 1e-12) / (error + 1e-12))


def stereo_image(audio: Array, *, window: int = 2048, bands: int = 24) -> tuple[Array, ...]:
    """Places the energy of every mel band of a stereo signal [B, W, 2] between its channels.

    With band energies of left, right and difference D = (L - R)/√2, all floored at -80 dB:
      panning = (|L|² - |R|²) / (|L|² + |R|²), from -1 (right alone) over 0 to 1 (left alone);
      width   = |D|² / (|L|² + |R|²), 0 for one and the same signal, 1/2 for unrelated ones, 1 for
                signals of opposite sign.

    Returns:
      (panning, width, energy), each [B, frames, bands].
    """
    filters = jnp.asarray(mel_filters(window, bands))
    power = jnp.square(jnp.abs(stft(audio, window)))
    difference = jnp.square(jnp.abs(mid_side(stft(audio, window))[:, 1]))
    left, right, apart = (x @ filters for x in (power[:, 0], power[:, 1], difference))
    floor = jnp.sum(filters, axis=0)[None, None] * 1e-8
    energy = left + right + floor
    return (left - right) / energy, apart / energy, energy


def stereo_error(
    prediction: Array, target: Array, *, window: int = 2048, bands: int = 24
) -> tuple[Array, Array]:
    """Measures how far a stereo image moved: mean |panning difference| and mean |width difference|.

    Averages over frames and mel bands, weighted by the target's energy. Level and phase do not
    matter: 0 is the same image, a mono copy of two unrelated channels has an error of 1/2 in width.

    Args:
      prediction, target: [B, W, 2].
      window, bands: as for `stereo_image`.

    Returns:
      (panning error [B], between 0 and 2; width error [B], between 0 and 1).
    """
    placed, width, _ = stereo_image(prediction, window=window, bands=bands)
    true_placed, true_width, energy = stereo_image(target, window=window, bands=bands)
    share = energy / jnp.sum(energy, axis=(1, 2), keepdims=True)
    return (
        jnp.sum(share * jnp.abs(placed - true_placed), axis=(1, 2)),
        jnp.sum(share * jnp.abs(width - true_width), axis=(1, 2)),
    )
