"""What can be seen of sounds: loudness, spectra in third octaves, and how far apart two sets are.

Sounds are [B, W, 2] at 48 kHz, full scale 1; levels are in dB of full scale, and what lies below
-80 dB counts as silence.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import stft
from acestep_jax.typing import Array
from acestep_jax.units import SAMPLE_RATE

SPECTRUM_WINDOW = 2048
"""Samples of a spectrum's window."""
MOMENT = 0.4
"""Seconds of a loudness reading: the block of ITU-R BS.1770, without its filter and gates."""
SILENCE = 1e-4
_DECIBELS = 20 / np.log(10)


def bands() -> tuple[np.ndarray, np.ndarray]:
    """Gives third octaves as bins of a spectrum: edges [N + 1], and middles in hertz [N]."""
    bins = SPECTRUM_WINDOW // 2 + 1
    edges = np.unique(np.round(2 ** np.arange(1.0, np.log2(bins), 1 / 3)).astype(int))
    middles = np.sqrt(edges[:-1] * edges[1:].astype(float)) * SAMPLE_RATE / SPECTRUM_WINDOW
    return edges, middles


def log_spectra(audio: np.ndarray) -> Array:
    """Log magnitudes of the sum of the channels, in third octaves: [B, frames, bands]."""
    spectra = jnp.abs(stft.stft(jnp.asarray(audio).sum(-1, keepdims=True), SPECTRUM_WINDOW))[:, 0]
    thirds = [spectra[..., low:high].mean(-1) for low, high in itertools.pairwise(bands()[0])]
    return jnp.log(jnp.maximum(jnp.stack(thirds, axis=-1), SILENCE))


def loudness(audio: np.ndarray) -> np.ndarray:
    """Root mean square of both channels over successive moments, in dB: [B, moments]."""
    size = int(MOMENT * SAMPLE_RATE)
    size = min(size, audio.shape[1])
    whole = audio.shape[1] // size
    blocks = np.asarray(audio)[:, : whole * size].reshape(len(audio), whole, -1)
    return _DECIBELS * np.log(np.maximum(np.sqrt(np.mean(blocks**2, axis=-1)), SILENCE))


def measure(audio: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compares sounds with the reference's: spectra frame by frame, their means, and loudness."""
    ours, theirs = log_spectra(audio), log_spectra(reference)
    profile = jnp.mean(ours, axis=(0, 1)) - jnp.mean(theirs, axis=(0, 1))
    return {
        "pair, dB": float(jnp.mean(jnp.abs(ours - theirs)) * _DECIBELS),
        "mean spectrum, dB": float(jnp.mean(jnp.abs(profile)) * _DECIBELS),
        "loudness, dB": float(loudness(audio).mean()),
    }


def spectrum_curve(audio: np.ndarray) -> list[tuple[float, float]]:
    """Gives the mean spectrum as points: octaves above 1 kHz, and dB."""
    levels = np.asarray(jnp.mean(log_spectra(audio), axis=(0, 1))) * _DECIBELS
    return [(float(np.log2(f / 1000)), float(y)) for f, y in zip(bands()[1], levels, strict=True)]


def loudness_curve(audio: np.ndarray) -> list[tuple[float, float]]:
    """Gives the mean loudness over time as points: seconds, and dB."""
    levels = loudness(audio).mean(0)
    return [(MOMENT * (i + 0.5), float(level)) for i, level in enumerate(levels)]
