"""Random stereo segments of audio files, for training the autoencoder.

Files are decoded once and kept in memory as 16-bit samples. Batch n is a function of (seed, n), so
that the position in the data is one number and a resumed run sees what an uninterrupted one sees.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio as audio_lib
from acestep_jax.data import labels as labels_lib

_FULL_SCALE = 32767.0
_AUDIBLE = 3e-3  # peaks below this (-50 dB) are left at their level, not lifted to music's


class Division(NamedTuple):
    """The audio files of a group: those to train on, and those to evaluate on."""

    train: list[pathlib.Path]
    held_out: list[pathlib.Path]


def divide(pattern: str, every: int) -> Division:
    """Divides the files that a glob pattern names, as their labels say.

    Of songs with labels beside them (`NAME.json`), the training split is trained on, the validation
    split evaluated on, and the test split left alone. Of the others every so many are held out.

    Args:
      pattern: such as `data/audio/own/*.flac`.
      every: of the files without labels; 0 holds none of them out.

    Raises:
      FileNotFoundError: if the pattern names no file.
      ValueError: if a file beside the audio holds no labels.
    """
    path = pathlib.Path(pattern)
    files = sorted(path.parent.glob(path.name))
    if not files:
        raise FileNotFoundError(f"{pattern} names no audio file; has the data been made?")
    division, unlabelled = Division([], []), 0
    for file in files:
        known = file.with_suffix(".json")
        if known.is_file():
            split = labels_lib.load_labels(known).split
        else:
            unlabelled += 1
            split = "validation" if every and unlabelled % every == 0 else "train"
        if split != "test":
            (division.train if split == "train" else division.held_out).append(file)
    return division


def load_tracks(
    files: Iterable[pathlib.Path], *, min_seconds: float, max_seconds: float
) -> list[np.ndarray]:
    """Decodes audio files as int16 [W, 2] at 48 kHz.

    Args:
      files: to decode.
      min_seconds: the least a file must hold.
      max_seconds: of longer files the middle is taken; keeps the memory in hand.

    Raises:
      BadAudio: if a file cannot be used.
    """
    tracks = []
    for file in files:
        samples = audio_lib.read_audio(file, min_seconds=min_seconds, max_seconds=max_seconds)
        tracks.append(np.round(samples * _FULL_SCALE).astype(np.int16))
    return tracks


def augment(rng: np.random.Generator, segment: np.ndarray) -> np.ndarray:
    """Varies placement and level of a segment [W, 2]: width, balance, swap, polarity, peak.

    Rendered songs are nearly mono (left and right correlate by .96 or more), which would teach an
    autoencoder to ignore the difference of the channels.
    """
    middle, side = segment.mean(axis=1), (segment[:, 0] - segment[:, 1]) / 2
    side = side * rng.uniform(0.6, 1.6)
    stereo = np.stack([middle + side, middle - side], axis=1)
    balance = rng.uniform(-0.5, 0.5) * (rng.random() < 0.5)
    stereo = stereo * np.array([1 - max(balance, 0), 1 + min(balance, 0)])
    stereo = stereo[:, ::-1] if rng.random() < 0.5 else stereo
    stereo = -stereo if rng.random() < 0.5 else stereo
    peak = np.abs(stereo).max()
    wanted = np.exp(rng.uniform(np.log(0.15), np.log(0.98)))
    return (stereo * (wanted / peak if peak > _AUDIBLE else 1.0)).astype(np.float32)


class SegmentBatches:
    """Iterates over batches [B, W, 2] of random segments; longer tracks are drawn more often.

    A share of the examples mixes two segments, each with its own place and level: what is said of
    one source alone is rarely true of music.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[np.ndarray]],
        *,
        batch_size: int,
        samples: int,
        seed: int,
        mix_share: float = 0.15,
    ) -> None:
        """Starts at batch 0.

        Args:
          groups: tracks int16 [W, 2]; every group is drawn equally often.
          batch_size: B.
          samples: W.
          seed: of the draws.
          mix_share: share of the examples that mix two segments.

        Raises:
          ValueError: if a group is empty or a track shorter than a segment.
        """
        for group in groups:
            if not group or min(map(len, group)) < samples:
                raise ValueError(f"every group needs tracks, each of {samples} samples or more.")
        self._groups = groups
        self._shares = [np.array([len(t) for t in g]) / sum(map(len, g)) for g in groups]
        self.size, self._samples = batch_size, samples
        self._seed, self._mix_share = seed, mix_share
        self._position = 0

    def __iter__(self) -> "SegmentBatches":
        return self

    def __next__(self) -> np.ndarray:
        self._position += 1
        return self.batch(self._position - 1)

    def batch(self, position: int) -> np.ndarray:
        """Draws the batch at a position, without moving there."""
        rng = np.random.default_rng((self._seed, position))
        return np.stack([self._example(rng) for _ in range(self.size)])

    def get_state(self) -> dict[str, Any]:
        """Gives the number of batches handed out."""
        return {"position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to a position from `get_state`."""
        self._position = state["position"]

    def _example(self, rng: np.random.Generator) -> np.ndarray:
        segment = augment(rng, self._cut(rng))
        if rng.random() < self._mix_share:
            segment = 0.6 * segment + 0.4 * augment(rng, self._cut(rng))
        return segment

    def _cut(self, rng: np.random.Generator) -> np.ndarray:
        group = rng.integers(len(self._groups))
        track = self._groups[group][rng.choice(len(self._groups[group]), p=self._shares[group])]
        start = rng.integers(len(track) - self._samples + 1)
        return track[start : start + self._samples] / np.float32(_FULL_SCALE)


def practice_tracks(*, count: int, seconds: float, seed: int = 0) -> list[np.ndarray]:
    """Makes tracks of decaying chords and noise bursts, int16 [W, 2]: audio without any file."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * units.SAMPLE_RATE)
    beat = np.arange(samples) % (units.SAMPLE_RATE // 4) / units.SAMPLE_RATE  # four notes a second
    time = np.arange(samples) / units.SAMPLE_RATE
    tracks = []
    for _ in range(count):
        pitches = 55.0 * 2 ** (rng.integers(0, 36, 4) / 12)
        tones = np.sin(2 * np.pi * pitches[:, None] * time[None]) * np.exp(-8 * beat)[None]
        places = rng.uniform(0, 1, (2, 4))
        hiss = rng.standard_normal((2, samples)) * np.exp(-60 * beat)[None]
        audio = 0.15 * places @ tones + 0.05 * hiss
        tracks.append(np.round(audio.T * _FULL_SCALE).astype(np.int16))
    return tracks


def held_out_clips(tracks: Sequence[np.ndarray], *, samples: int, seed: int = 0) -> np.ndarray:
    """Cuts one clip [W, 2] from each track, unaltered: [tracks, W, 2] float32."""
    rng = np.random.default_rng(seed)
    starts = [rng.integers(len(track) - samples + 1) for track in tracks]
    clips = [track[s : s + samples] for track, s in zip(tracks, starts, strict=True)]
    return np.stack(clips).astype(np.float32) / np.float32(_FULL_SCALE)
