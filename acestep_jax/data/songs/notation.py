"""Reads melodies written as scale degrees, with words by syllable.

A melody is a string of notes separated by spaces. A note is

    [~] [# or b] degree [' or ,]* [duration marks]

where the degree 1-7 counts in the tune's mode and 0 is a rest; each `'` lifts by an octave and each
`,` lowers by one; `~` carries the previous syllable on. A plain note lasts one unit (a quarter; an
eighth in 6/8); each `-` adds a unit, `/` halves, and `.` multiplies by 1.5, in the order written.
Bar lines `|` are checked by `check_tune`, never needed.

Words are written with their syllables joined by hyphens, one syllable a note that has no `~`:
"Twin-kle twin-kle lit-tle star". Where a vowel is swallowed between two words they share a syllable
and are joined by `_`: "dón-de_es-tá".
"""

import dataclasses
import re

MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
}
"""Semitones of the seven degrees above the tonic."""

_NOTE = re.compile(r"(~?)([#b]?)([0-7])([',]*)([-/.]*)")


@dataclasses.dataclass(frozen=True)
class Note:
    """One note of a tune.

    Attributes:
      start, length: in units of the tune's metre.
      pitch: semitones above the tonic of the middle octave; None for a rest.
      carried: the previous syllable goes on.
    """

    start: float
    length: float
    pitch: int | None
    carried: bool


@dataclasses.dataclass(frozen=True)
class TuneLine:
    """One sung line: its notes from the line's own start, its words, its section's tag."""

    notes: tuple[Note, ...]
    words: tuple[tuple[str, ...], ...]  # each word a tuple of syllables
    section: str

    @property
    def length(self) -> float:
        """Units from the first note to the end of the last."""
        return self.notes[-1].start + self.notes[-1].length

    @property
    def text(self) -> str:
        """The words as they are written on a lyrics sheet."""
        return " ".join(join_syllables(word) for word in self.words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tune:
    """A melody with words.

    Attributes:
      name: also the group by which songs are split into train, validation and test.
      mode: a key of `MODES`.
      metre: units a bar: 2, 3 or 4 quarters, or 6 eighths.
      pickup: units before the first bar line; every line starts with as many.
      lines: in singing order.
    """

    name: str
    title: str
    language: str
    mode: str
    metre: int
    pickup: float
    lines: tuple[TuneLine, ...]


def parse_melody(text: str, mode: str) -> tuple[Note, ...]:
    """Reads one line of notes.

    Raises:
      ValueError: if a note does not follow the notation.
    """
    notes, start = [], 0.0
    for token in text.replace("|", " ").split():
        match = _NOTE.fullmatch(token)
        if match is None:
            raise ValueError(f"{token!r} in {text!r} is not a note; see the notation's docstring.")
        carried, accidental, degree, octaves, marks = match.groups()
        length = _length(marks)
        pitch = None if degree == "0" else _pitch(int(degree), accidental, octaves, mode)
        notes.append(Note(start, length, pitch, bool(carried)))
        start += length
    return tuple(notes)


def _pitch(degree: int, accidental: str, octaves: str, mode: str) -> int:
    shift = {"": 0, "#": 1, "b": -1}[accidental]
    return MODES[mode][degree - 1] + shift + 12 * (octaves.count("'") - octaves.count(","))


def _length(marks: str) -> float:
    length = 1.0
    for mark in marks:
        length = {"-": length + 1, "/": length / 2, ".": length * 1.5}[mark]
    return length


def parse_words(text: str) -> tuple[tuple[str, ...], ...]:
    """Splits a line of text into words of syllables."""
    return tuple(tuple(word.split("-")) for word in text.split())


def join_syllables(word: tuple[str, ...]) -> str:
    """Writes a word of syllables as on a lyrics sheet."""
    return "".join(word).replace("_", " ")


def make_line(melody: str, text: str, mode: str, section: str) -> TuneLine:
    """Joins notes and words.

    Raises:
      ValueError: if they do not have as many syllables.
    """
    notes, words = parse_melody(melody, mode), parse_words(text)
    sung = sum(note.pitch is not None and not note.carried for note in notes)
    syllables = sum(len(word) for word in words)
    if sung != syllables:
        raise ValueError(f"{text!r} has {syllables} syllables for {sung} notes in {melody!r}")
    return TuneLine(notes, words, section)


def check_tune(tune: Tune, bars: list[str]) -> list[str]:
    """Lists bars of `bars` (the melodies with bar lines) that do not fill the tune's metre."""
    wrong = []
    for melody in bars:
        lengths = [
            sum(note.length for note in parse_melody(bar, tune.mode)) for bar in melody.split("|")
        ]
        inner = lengths[1:-1] if tune.pickup else lengths
        full = all(abs(length - tune.metre) < 1e-9 for length in inner)
        whole = abs(sum(lengths) % tune.metre) < 1e-9
        if not (full and whole):
            wrong.append(f"{tune.name}: {melody!r} has bars of {lengths} units")
    return wrong
