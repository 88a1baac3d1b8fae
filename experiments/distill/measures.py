"""How far two sets of songs are apart, by measures that no training here has seen.

Sets X and Y answer the same prompts from independent noise. A song has the prompt of one song in
the other set, and of none in its own; pairs of one prompt are left out everywhere, so that equal
laws are 0 apart on average. Intervals are percentiles of a bootstrap over prompts: a prompt is
drawn with all that was made of it.

    energy     2 E|x - y| - E|x - x'| - E|y - y'|  of windows of latents (Székely & Rizzo 2013)
    frechet    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^1/2)  of log-mel frames: the distance of
               two Gaussians (Dowson & Landau 1982), on statistics of librosa's mel spectrogram
    diversity  the mean distance between two songs of one prompt, over the teacher's
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from acestep_jax.units import SAMPLE_RATE

WINDOW_FRAMES = 8
"""Latent frames of a window: a third of a second."""
MELS = 32
Weights = np.ndarray
"""How often each prompt counts, [N]."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[Weights], float], count: int, *, draws: int = 500, seed: int = 0
) -> Interval:
    """Evaluates a statistic of `count` prompts, and resamples them."""
    rng = np.random.default_rng(seed)
    resampled = [
        statistic(np.bincount(rng.integers(count, size=count), minlength=count).astype(float))
        for _ in range(draws)
    ]
    resampled = [value for value in resampled if np.isfinite(value)]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(statistic(np.ones(count))), float(low), float(high))


# Energy distance of windows ----------------------------------------------------------------------


def song_distances(x: np.ndarray, y: np.ndarray, length: int = WINDOW_FRAMES) -> np.ndarray:
    """Averages the Euclidean distance between the windows of songs: [N, T, C], [M, T, C] -> [N, M].

    Distances are those of a window's mean square root, so that they do not grow with its size.
    """
    ours, theirs = (_windows(z, length) for z in (x, y))
    others = theirs.reshape(-1, theirs.shape[-1])
    found = np.empty((len(x), len(y)))
    for i, song in enumerate(ours):
        # |a - b|^2 by one matrix product; in float64, since the three terms nearly cancel
        squares = np.sum(song**2, -1)[:, None] + np.sum(others**2, -1) - 2 * song @ others.T
        gaps = np.sqrt(np.maximum(squares, 0.0) / song.shape[-1])
        found[i] = gaps.reshape(len(song), len(y), -1).mean((0, 2))
    return found


def _windows(latents: np.ndarray, length: int) -> np.ndarray:
    songs, frames, channels = latents.shape
    whole = frames // length
    cut = np.asarray(latents, np.float64)[:, : whole * length]
    return cut.reshape(songs, whole, length * channels)


class Distances(NamedTuple):
    """Distances between songs, [N, N] each: across the sets, and within them."""

    across: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray


def distances(x: np.ndarray, y: np.ndarray, theirs: np.ndarray | None = None) -> Distances:
    """Measures all pairs; `theirs` are those within y, where they are known already."""
    within = song_distances(y, y) if theirs is None else theirs
    return Distances(song_distances(x, y), song_distances(x, x), within)


def energy(pairs: Distances, weights: Weights) -> float:
    """Estimates the energy distance from pairs of different prompts."""
    across, ours, theirs = (_mean_of_others(block, weights) for block in pairs)
    return 2 * across - ours - theirs


def _mean_of_others(block: np.ndarray, weights: Weights) -> float:
    counted = np.outer(weights, weights)
    np.fill_diagonal(counted, 0.0)
    return float(np.sum(counted * block) / np.sum(counted))


# Frechet distance of log-mel statistics ----------------------------------------------------------


class Moments(NamedTuple):
    """Sums over the log-mel frames of each song: counts [N], [N, M], and products [N, M, M]."""

    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray


def log_mel_moments(audio: np.ndarray) -> Moments:
    """Collects the log-mel frames of sounds [N, W, 2], both channels mixed."""
    import librosa

    found = []
    for song in audio:
        mel = librosa.feature.melspectrogram(y=song.mean(-1), sr=SAMPLE_RATE, n_mels=MELS)
        frames = np.log10(np.maximum(mel, 1e-8)).T
        found.append((len(frames), frames.sum(0), frames.T @ frames))
    return Moments(*(np.array(part) for part in zip(*found, strict=True)))


def frechet(ours: Moments, theirs: Moments, weights: Weights) -> float:
    """Measures between the Gaussians of two sets of frames."""
    (m_x, c_x), (m_y, c_y) = _gaussian(ours, weights), _gaussian(theirs, weights)
    # the square roots of the eigenvalues of C_x C_y, which are real and not negative
    roots = np.sqrt(np.maximum(np.linalg.eigvals(c_x @ c_y).real, 0.0))
    return float(np.sum((m_x - m_y) ** 2) + np.trace(c_x + c_y) - 2 * roots.sum())


def _gaussian(moments: Moments, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    count = np.sum(weights * moments.counts)
    mean = np.einsum("N,NM->M", weights, moments.sums) / count
    square = np.einsum("N,NMK->MK", weights, moments.products) / count
    return mean, square - np.outer(mean, mean)


# Diversity ---------------------------------------------------------------------------------------


def seed_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Measures how far apart two songs of each prompt are: [N, T, C] twice -> [N]."""
    return np.sqrt(np.mean((first - second) ** 2, axis=(1, 2)))


def diversity(ours: np.ndarray, theirs: np.ndarray, weights: Weights) -> float:
    """Divides the mean distance between seeds by the teacher's."""
    return float(np.sum(weights * ours) / np.sum(weights * theirs))
