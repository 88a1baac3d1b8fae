"""What an arrangement is: a score in seconds, with every player's notes and every sung word."""

import dataclasses

from acestep_jax.data import labels
from acestep_jax.data.songs import harmony, notation, styles, voice


@dataclasses.dataclass(frozen=True)
class Event:
    """One note of a player: seconds, MIDI pitch, velocity in (0, 1]."""

    start: float
    seconds: float
    midi: int
    velocity: float


@dataclasses.dataclass(frozen=True)
class Stroke:
    """One drum stroke."""

    start: float
    piece: str
    velocity: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What one instrument plays, and where it stands (-1 left to 1 right)."""

    role: str
    instrument: str
    events: tuple[Event, ...]
    pan: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SungLine:
    """One line to sing: for every word, its text and syllables."""

    text: str
    tag: str
    words: tuple[tuple[str, tuple[voice.Syllable, ...]], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A stretch of the song under one tag."""

    tag: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A whole arrangement; times in seconds.

    Attributes:
      seconds: length, the ending's decay included.
      tonic: semitones above C.
    """

    tune: notation.Tune
    style: styles.Style
    bpm: int
    tonic: int
    seconds: float
    parts: tuple[Part, ...]
    strokes: tuple[Stroke, ...]
    sung: tuple[SungLine, ...]
    sections: tuple[Section, ...]
    chords: tuple[tuple[float, str], ...]

    @property
    def keyscale(self) -> str:
        """The key as prompts write it."""
        return harmony.keyscale_name(self.tonic, self.tune.mode)

    @property
    def instruments(self) -> tuple[str, ...]:
        """Names of all players that play, drums and voice apart."""
        return tuple(dict.fromkeys(part.instrument for part in self.parts if part.events))


def lyric_sheet(score: Score) -> list[labels.Line]:
    """The lyrics sheet with tags: `[verse]` before the lines of a verse, and so on."""
    lines: list[labels.Line] = []
    sung = iter(score.sung)
    pending = next(sung, None)
    for section in score.sections:
        lines.append(labels.Line(f"[{section.tag}]", section.start, section.end))
        while pending is not None and _starts_in(pending, section):
            first, last = pending.words[0][1][0], pending.words[-1][1][-1]
            lines.append(labels.Line(pending.text, first.notes[0][0], last.end))
            pending = next(sung, None)
    return lines


def _starts_in(line: SungLine, section: Section) -> bool:
    """A line belongs to the section of its first full bar; a pickup may begin before it."""
    middle = (line.words[0][1][0].notes[0][0] + line.words[-1][1][-1].end) / 2
    return section.start <= middle < section.end
