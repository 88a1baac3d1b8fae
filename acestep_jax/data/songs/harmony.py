"""Keys and chords, and a harmony for any melody by dynamic programming.

The harmoniser scores every triad of the mode against the notes that sound in a bar, adds how well
chords follow each other, and takes the best path (Viterbi). A little seeded noise on the scores
makes every arrangement of a tune its own.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from acestep_jax.data.songs import notation

KEY_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
"""Tonics by semitone above C, spelled within the 70 key names that the release knows."""
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in KEY_NAMES)


@dataclasses.dataclass(frozen=True)
class Chord:
    """A chord within a key.

    Attributes:
      root: semitones above the tonic, 0-11.
      tones: semitones above the root.
    """

    root: int
    tones: tuple[int, ...]

    @property
    def quality(self) -> str:
        """Suffix of the chord's name: "" is major, "m" minor, "dim" diminished, "7" dominant."""
        return {(0, 4, 7): "", (0, 3, 7): "m", (0, 3, 6): "dim", (0, 4, 7, 10): "7"}[self.tones]


def chord_name(chord: Chord, tonic: int) -> str:
    """Names a chord in a key, e.g. "Am"; `tonic` counts semitones above C."""
    return KEY_NAMES[(tonic + chord.root) % 12] + chord.quality


def keyscale_name(tonic: int, mode: str) -> str:
    """Names a key as prompts do, "D minor"; modes with a minor third are called minor."""
    third = notation.MODES[mode][2]
    return f"{KEY_NAMES[tonic % 12]} {'minor' if third == 3 else 'major'}"


def mode_chords(mode: str) -> tuple[Chord, ...]:
    """The triads of a mode; minor modes get the dominant with its leading note too."""
    scale = notation.MODES[mode]
    chords = []
    for degree in range(7):
        pitches = [scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4)]
        chords.append(Chord(pitches[0], tuple(pitch - pitches[0] for pitch in pitches)))
    usable = [chord for chord in chords if chord.tones != (0, 3, 6)]
    if scale[2] == 3:
        usable.append(Chord(7, (0, 4, 7)))
    return tuple(usable)


def harmonize(
    notes: Sequence[tuple[float, float, int]],
    mode: str,
    bar: float,
    num_bars: int,
    rng: np.random.Generator,
) -> list[Chord]:
    """Chooses one chord a bar for a melody.

    Args:
      notes: (start, length, semitones above the tonic), in units from the first bar line.
      mode: a key of `notation.MODES`.
      bar: units a bar.
      num_bars: how many chords are wanted.
      rng: draws small preferences, so that two arrangements differ.

    Returns:
      `num_bars` chords, ending on the tonic.
    """
    chords = mode_chords(mode)
    fit = np.array(
        [[_fit(notes, b * bar, bar, chord) for chord in chords] for b in range(num_bars)]
    )
    fit = fit + 0.35 * rng.random(fit.shape)
    fit += np.array([0.5 if chord.root in (0, 5, 7) else 0.0 for chord in chords])  # I, IV, V
    fit[-1, [i for i, chord in enumerate(chords) if chord.root == 0]] += 10.0
    return [chords[i] for i in _best_path(fit, _follow_scores(chords))]


def _fit(
    notes: Sequence[tuple[float, float, int]], start: float, bar: float, chord: Chord
) -> float:
    """Share of the bar's sounding time whose pitch is in the chord; the down-beat counts double."""
    tones = {(chord.root + tone) % 12 for tone in chord.tones}
    inside = total = 0.0
    for note_start, length, pitch in notes:
        overlap = min(note_start + length, start + bar) - max(note_start, start)
        if overlap <= 0:
            continue
        weight = overlap * (2.0 if abs(note_start - start) < 1e-6 else 1.0)
        total += weight
        inside += weight * (pitch % 12 in tones)
    return 3.0 * inside / total if total else 0.0


def _follow_scores(chords: Sequence[Chord]) -> np.ndarray:
    """Prefers roots that fall by a fifth and dislikes standing still a little."""
    scores = np.zeros((len(chords), len(chords)))
    for i, before in enumerate(chords):
        for j, after in enumerate(chords):
            step = (after.root - before.root) % 12
            scores[i, j] = {5: 0.5, 7: 0.3, 0: -0.1, 2: 0.2}.get(step, 0.0)
    return scores


def _best_path(fit: np.ndarray, follow: np.ndarray) -> list[int]:
    """Viterbi: the sequence with the largest sum of fit and follow scores."""
    best, back = fit[0], []
    for row in fit[1:]:
        scores = best[:, None] + follow + row[None, :]
        back.append(scores.argmax(axis=0))
        best = scores.max(axis=0)
    path = [int(best.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return path[::-1]
