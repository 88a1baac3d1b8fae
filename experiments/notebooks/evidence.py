"""What the tasks are measured with: unheard songs, features of sound, and comparisons.

A comparison is a square table: how song i's result fits song j's target. That a task is done shows
in the diagonal: a result fits its own target better than the targets of other songs. The interval
is the middle 95 % of the mean over songs drawn anew with replacement.
"""

import dataclasses
import html
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import transforms
from acestep_jax.data.songs import render
from acestep_jax.training import media

Sound = np.ndarray
"""[W, 2] at 48 kHz."""

FIRST_SEED = 1_000_000
"""Seeds from here on belong to no song of the training data."""
_START = 4  # seconds into a song, where all of its tracks play
_SEMITONES = np.arange(36, 96)  # MIDI numbers that chroma is made of
_WINDOW, _HOP = 8192, 4800  # samples: 170 ms, ten columns a second


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a song that no training run heard.

    Attributes:
      labels: of the whole song.
      start: where in it the piece begins, seconds.
      mix: its sound.
      stems: its tracks' sounds, which add up to the mix.
    """

    labels: labels_lib.SongLabels
    start: float
    mix: Sound
    stems: dict[str, Sound]

    @property
    def tracks(self) -> list[str]:
        """Names of the stems, the one with the most energy first."""
        return sorted(self.stems, key=lambda track: -float((self.stems[track] ** 2).sum()))

    @property
    def fields(self) -> dict[str, Any]:
        """What its prompt says in training: caption, metadata, and the words sung in it."""
        known = {name: getattr(self.labels, name) for name in ("bpm", "keyscale", "timesignature")}
        fields = {"caption": self.labels.captions[0]} | {k: v for k, v in known.items() if v}
        if self.labels.instrumental:
            return fields | {"instrumental": True}
        end = self.start + len(self.mix) / units.SAMPLE_RATE
        words = transforms.clip_lyrics(self.labels, self.start, end)
        return fields | {"lyrics": words, "language": self.labels.language}


def unheard(count: int, seconds: float, first_seed: int = FIRST_SEED) -> list[Piece]:
    """Renders pieces of new songs to melodies that the training split does not have.

    Args:
      count: how many.
      seconds: their length; they begin where the music has begun.
      first_seed: where to look from.
    """
    pieces: list[Piece] = []
    samples, seed = round(seconds * units.SAMPLE_RATE), first_seed - 1
    while len(pieces) < count:
        seed += 1
        score, singer, rng = render.choose_score(seed)
        group = render.melody_group(score.tune)
        if labels_lib.split_of(group) == "train" or score.seconds < seconds + _START:
            continue
        song = render.render_score(render.song_name(seed), score, singer, rng)
        start = _START * units.SAMPLE_RATE
        cut = {track: wave[start : start + samples] for track, wave in song.stems.items()}
        heard = {track: wave for track, wave in cut.items() if np.abs(wave).max() > 0.01}
        if len(heard) > 1:
            mix = song.mix[start : start + samples]
            pieces.append(Piece(song.labels, float(_START), mix, heard))
    return pieces


# Features -----------------------------------------------------------------------------------------


def spectra(sound: Sound) -> np.ndarray:
    """Computes magnitudes [columns, bins] of windows of 170 ms, ten a second."""
    mono = np.pad(sound.mean(axis=1), (0, max(0, _WINDOW - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(mono, _WINDOW)[::_HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=-1))


def chroma(sound: Sound) -> np.ndarray:
    """Computes the energy of the twelve pitch classes, centred in every column: [columns, 12]."""
    energy = spectra(sound) ** 2
    bins = np.fft.rfftfreq(_WINDOW, 1 / units.SAMPLE_RATE)
    nearest = np.round(69 + 12 * np.log2(np.maximum(bins, 1.0) / 440)).astype(int)
    classes = np.zeros((len(energy), 12))
    for number in _SEMITONES:
        classes[:, number % 12] += energy[:, nearest == number].sum(axis=1)
    loud = np.sqrt(classes)
    return loud - loud.mean(axis=1, keepdims=True)


def correlate(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Correlates two features over time, from -1 to 1."""
    columns = min(len(ours), len(theirs))
    ours, theirs = ours[:columns].ravel(), theirs[:columns].ravel()
    return float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs) + 1e-12))


def fit(sound: Sound, target: Sound) -> float:
    """Correlates two sounds' chroma, from -1 to 1."""
    return correlate(chroma(sound), chroma(target))


def bands(sound: Sound, count: int = 24) -> np.ndarray:
    """Computes levels of bands between 60 Hz and 16 kHz, dB: [columns, count]."""
    energy = spectra(sound) ** 2
    bins = np.fft.rfftfreq(_WINDOW, 1 / units.SAMPLE_RATE)
    edges = np.geomspace(60, 16_000, count + 1)
    levels = [energy[:, (low <= bins) & (bins < high)].sum(axis=1)
              for low, high in itertools.pairwise(edges)]  # fmt: skip
    return 10 * np.log10(np.stack(levels, axis=1) + 1e-4)


def differ(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Measures the mean difference of two sounds' bands in dB, whatever their overall level."""
    columns = min(len(ours), len(theirs))
    difference = ours[:columns] - theirs[:columns]
    return float(np.abs(difference - np.median(difference)).mean())


def distance(sound: Sound, target: Sound) -> float:
    """Measures two sounds by (bands, differ)."""
    return differ(bands(sound), bands(target))


def timbre_distance(sound: Sound, target: Sound) -> float:
    """Measures the difference of two sounds' long-term spectra in dB, whatever their level."""
    difference = bands(sound).mean(axis=0) - bands(target).mean(axis=0)
    return float(np.abs(difference - np.median(difference)).mean())


# Comparisons --------------------------------------------------------------------------------------


def table(
    feature: Callable[[Sound], np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], float],
    results: Sequence[Sound],
    targets: Sequence[Sound],
) -> np.ndarray:
    """Measures the features of every result against those of every target: [results, targets]."""
    ours, theirs = (list(map(feature, sounds)) for sounds in (results, targets))
    return np.array([[measure(own, target) for target in theirs] for own in ours])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Own targets against those of other songs.

    Attributes:
      name: what was measured.
      own, others: means.
      better: by how much own targets fit better, and its 95 % interval; positive is good.
      songs: how many were compared.
    """

    name: str
    own: float
    others: float
    better: tuple[float, float, float]
    songs: int

    def __str__(self) -> str:
        middle, low, high = self.better
        return (
            f"{self.name}: own {self.own:.3f}, others {self.others:.3f}, "
            f"better by {middle:.3f} ({low:.3f} to {high:.3f}), {self.songs} songs"
        )


def compare(
    name: str, values: np.ndarray, *, higher_is_better: bool, draws: int = 10_000
) -> Comparison:
    """Compares the diagonal of a table with the rest of each row.

    Raises:
      ValueError: for fewer than two songs.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} songs; targets of others need two at least.")
    own = np.diagonal(values)
    others = (values.sum(axis=1) - own) / (count - 1)
    gains = (own - others) if higher_is_better else (others - own)
    return Comparison(name, float(own.mean()), float(others.mean()), interval(gains, draws), count)


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float, float]:
    """Gives a mean with the 95 % interval of means of values drawn anew."""
    drawn = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(np.asarray(values)[drawn].mean(axis=1), (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


# Sounds in a notebook -----------------------------------------------------------------------------


class Players:
    """Sounds to be played, each under its name; notebooks show it as HTML."""

    def __init__(self, **sounds: Sound) -> None:
        self.sounds = sounds

    def __repr__(self) -> str:
        lengths = (f"{name} {len(sound) / units.SAMPLE_RATE:.1f} s"
                   for name, sound in self.sounds.items())  # fmt: skip
        return f"sounds: {', '.join(lengths)}"

    def _repr_html_(self) -> str:
        cells = (
            f"<div><b>{html.escape(name.replace('_', ' '))}</b><br>"
            f"<img src='{media.spectrogram_uri(sound, units.SAMPLE_RATE)}'><br>"
            f"<audio controls src='{media.audio_uri(sound, units.SAMPLE_RATE)}'></audio></div>"
            for name, sound in self.sounds.items()
        )
        return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{''.join(cells)}</div>"
