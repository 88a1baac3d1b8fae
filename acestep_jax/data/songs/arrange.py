"""Arranges a tune: from melody, style, key and tempo to a score in seconds, with every label.

A score lists what each player does. Its sections are an introduction, the sung lines of the tune
under their own tags, an instrumental turn where the song would be short, and an ending.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from acestep_jax.data import labels
from acestep_jax.data.songs import harmony, notation, styles, voice

_SINGABLE = (57, 74)
"""MIDI range that the melody should lie in: A3 to D5."""


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


@dataclasses.dataclass(frozen=True)
class _Block:
    """A section on the bar grid: its tag, first bar, number of bars, and lines of melody."""

    tag: str
    bar: int
    bars: int
    lines: tuple[tuple[int, notation.TuneLine], ...]  # (first bar, line)
    sung: bool


def arrange(
    tune: notation.Tune, style: styles.Style, *, sung: bool, rng: np.random.Generator
) -> Score:
    """Arranges `tune` in `style`; key, tempo and details are drawn from `rng`.

    Args:
      sung: False leaves the melody to the lead instrument.

    Raises:
      ValueError: if the style cannot play the tune's metre.
    """
    if tune.metre not in style.metres:
        raise ValueError(f"{style.name} plays metres {style.metres}, {tune.name} has {tune.metre}")
    bpm = int(rng.integers(style.bpm[0], style.bpm[1] + 1))
    unit = 60.0 / bpm / (3 if tune.metre == 6 else 1)
    bar = tune.metre * unit
    tonic = int(rng.integers(12))
    middle = _register(tune, tonic)
    blocks = _plan(tune, bar, sung=sung)
    num_bars = blocks[-1].bar + blocks[-1].bars
    chords = _chords(tune, blocks, num_bars, rng)
    band = _Band(style, tune.metre, unit, middle, chords, blocks, rng)
    melody = _melody_events(blocks, tune, unit, middle)
    parts = (*band.parts(), Part(role="lead", instrument=style.lead, events=melody, pan=0.25))
    return Score(
        tune=tune,
        style=style,
        bpm=bpm,
        tonic=tonic,
        seconds=round(num_bars * bar + 1.5, 3),
        parts=parts,
        strokes=band.strokes(),
        sung=_sung_lines(blocks, tune, unit, middle) if sung else (),
        sections=tuple(
            Section(tag=b.tag, start=b.bar * bar, end=(b.bar + b.bars) * bar) for b in blocks
        ),
        chords=tuple(
            (round(i * bar, 3), harmony.chord_name(c, tonic)) for i, c in enumerate(chords)
        ),
    )


def _register(tune: notation.Tune, tonic: int) -> int:
    """MIDI pitch of the tonic from which the melody's middle lies best in the voice."""
    pitches = [n.pitch for line in tune.lines for n in line.notes if n.pitch is not None]
    centre = (min(pitches) + max(pitches)) / 2
    wanted = sum(_SINGABLE) / 2
    options = [12 * octave + tonic for octave in range(2, 8)]
    return min(options, key=lambda midi: abs(midi + centre - wanted))


def _line_bars(line: notation.TuneLine, tune: notation.Tune) -> int:
    return max(1, round(line.length / tune.metre))


def _plan(tune: notation.Tune, bar: float, *, sung: bool) -> list[_Block]:
    """Lays sections on the bar grid until the song lasts 20 s or more."""
    groups: list[tuple[str, list[notation.TuneLine]]] = []
    for line in tune.lines:
        if not groups or groups[-1][0] != line.section:
            groups.append((line.section, []))
        groups[-1][1].append(line)
    intro = 2 if bar > 2.4 else 4
    blocks = [_Block("intro", 0, intro, (), sung=False)]
    at, turn = intro, 0
    while turn == 0 or (at * bar < 20.0 and turn < 3):
        instrumental = not sung or turn == 1  # the second turn rests the voice
        for section, lines in groups:
            tag = "instrumental" if instrumental else section
            start, laid = at, []
            for line in lines:
                laid.append((at, line))
                at += _line_bars(line, tune)
            blocks.append(_Block(tag, start, at - start, tuple(laid), sung=not instrumental))
        turn += 1
    return [*blocks, _Block("outro", at, 2, (), sung=False)]


def _melody_notes(
    blocks: Sequence[_Block], tune: notation.Tune
) -> list[tuple[float, float, int, bool, bool]]:
    """All melody notes as (start, length, pitch, carried, sung), in units from bar 0."""
    notes = _intro_notes(blocks, tune) if any(block.sung for block in blocks) else []
    for block in blocks:
        for first_bar, line in block.lines:
            origin = first_bar * tune.metre - tune.pickup
            for note in line.notes:
                if note.pitch is not None:
                    start = origin + note.start
                    notes.append((start, note.length, note.pitch, note.carried, block.sung))
    return notes


def _intro_notes(
    blocks: Sequence[_Block], tune: notation.Tune
) -> list[tuple[float, float, int, bool, bool]]:
    """As much of the first line as fits into the introduction, for the lead to announce."""
    origin = (tune.metre - tune.pickup) % tune.metre
    limit = blocks[0].bars * tune.metre - tune.pickup
    return [
        (origin + note.start, note.length, note.pitch, note.carried, False)
        for note in tune.lines[0].notes
        if note.pitch is not None and origin + note.start + note.length <= limit
    ]


def _chords(
    tune: notation.Tune, blocks: Sequence[_Block], num_bars: int, rng: np.random.Generator
) -> list[harmony.Chord]:
    """One chord a bar; bars without melody follow tonic and dominant."""
    notes = [(start, length, pitch) for start, length, pitch, _, _ in _melody_notes(blocks, tune)]
    return harmony.harmonize(notes, tune.mode, tune.metre, num_bars, rng)


def _melody_events(
    blocks: Sequence[_Block], tune: notation.Tune, unit: float, middle: int
) -> tuple[Event, ...]:
    """What the lead plays: the melody wherever nobody sings it."""
    return tuple(
        Event(start * unit, length * unit * 0.95, middle + pitch, 0.8)
        for start, length, pitch, _, is_sung in _melody_notes(blocks, tune)
        if not is_sung
    )


def _sung_lines(
    blocks: Sequence[_Block], tune: notation.Tune, unit: float, middle: int
) -> tuple[SungLine, ...]:
    lines = []
    for block in blocks:
        if not block.sung:
            continue
        for first_bar, line in block.lines:
            origin = (first_bar * tune.metre - tune.pickup) * unit
            lines.append(
                SungLine(
                    text=line.text, tag=block.tag, words=_sung_words(line, origin, unit, middle)
                )
            )
    return tuple(lines)


def _sung_words(
    line: notation.TuneLine, origin: float, unit: float, middle: int
) -> tuple[tuple[str, tuple[voice.Syllable, ...]], ...]:
    """Joins the syllables of a line with their notes."""
    groups: list[list[notation.Note]] = []
    for note in line.notes:
        if note.pitch is None:
            continue
        if note.carried:
            groups[-1].append(note)
        else:
            groups.append([note])
    syllables = iter(groups)
    words = []
    for word in line.words:
        sung = []
        for text in word:
            notes = next(syllables)
            timed = tuple((origin + n.start * unit, middle + (n.pitch or 0)) for n in notes)
            end = origin + (notes[-1].start + notes[-1].length) * unit
            sung.append(voice.Syllable(text=text, notes=timed, end=end - 0.01))
        words.append((notation.join_syllables(word), tuple(sung)))
    return tuple(words)


class _Band:
    """The accompaniment: drums, bass, chords and pad over one chord a bar."""

    def __init__(
        self,
        style: styles.Style,
        metre: int,
        unit: float,
        middle: int,
        chords: Sequence[harmony.Chord],
        blocks: Sequence[_Block],
        rng: np.random.Generator,
    ) -> None:
        self._style, self._metre, self._unit = style, metre, unit
        self._middle, self._chords, self._blocks = middle, chords, blocks
        self._bar = metre * unit
        self._humanize = rng.uniform(0.85, 1.0, size=4096)
        self._arpeggio = rng.permutation([0, 1, 2, 1]) if rng.random() < 0.5 else np.arange(4)
        self._drum_free = rng.random() < 0.4  # the introduction goes without drums

    def parts(self) -> tuple[Part, ...]:
        """Chords, pad and bass, as far as the style has them."""
        style = self._style
        players = [
            ("chords", style.chords, self._chord_events, -0.35),
            ("pad", style.pad, self._pad_events, 0.1),
            ("bass", style.bass, self._bass_events, 0.0),
        ]
        return tuple(
            Part(role=role, instrument=name, events=tuple(play()), pan=pan)
            for role, name, play, pan in players
            if name
        )

    def strokes(self) -> tuple[Stroke, ...]:
        """The groove, bar for bar; a crash opens every section after the first."""
        grooves = styles.GROOVES[self._style.groove]
        triplets = 12 in grooves
        groove = grooves[12] if triplets else grooves.get(self._metre, {})
        steps = 12 if triplets else {3: 12, 4: 16, 6: 12}[self._metre]
        first = self._blocks[0].bars if self._drum_free else 0
        strokes = []
        for bar in range(first, len(self._chords) - 1):
            for piece, pattern in groove.items():
                for step, mark in enumerate(pattern):
                    if mark != "." and (piece != "crash" or bar % 4 == 0):
                        start = bar * self._bar + step * self._bar / steps
                        loud = (0.9 if mark == "x" else 0.45) * self._vary(bar * 17 + step)
                        strokes.append(Stroke(start, piece, loud))
        return tuple(sorted(strokes, key=lambda stroke: (stroke.start, stroke.piece)))

    def _vary(self, index: int) -> float:
        return float(self._humanize[index % len(self._humanize)])

    def _voicing(self, chord: harmony.Chord, low: int) -> list[int]:
        """The chord's tones at or above MIDI `low`, closest position."""
        roots = [(self._middle + chord.root + tone) % 12 for tone in chord.tones]
        return sorted(low + (pitch - low) % 12 for pitch in roots)

    def _beats(self) -> list[float]:
        """Starts of the felt beats of a bar, in units."""
        return [0.0, 3.0] if self._metre == 6 else [float(i) for i in range(self._metre)]

    def _chord_events(self) -> list[Event]:
        """The pattern of the chord player in every bar; the last bar is one held chord."""
        events = []
        for bar, chord in enumerate(self._chords):
            start, tones = bar * self._bar, self._voicing(chord, 55)
            if bar == len(self._chords) - 1:
                events += [Event(start, self._bar, tone, 0.6) for tone in tones]
                continue
            for at, length, chosen, loud in self._pattern(tones):
                loudness = loud * self._vary(bar * 31 + int(at * 4))
                for i, tone in enumerate(chosen):
                    late = 0.012 * i if self._style.pattern == "strum" else 0.0
                    begin = start + at * self._unit + late
                    events.append(Event(begin, length * self._unit, tone, loudness))
        return events

    def _pattern(self, tones: list[int]) -> list[tuple[float, float, list[int], float]]:
        """(start, length in units, tones, loudness) of one bar."""
        beats, metre = self._beats(), float(self._metre)
        span = metre / len(beats)
        if self._style.pattern == "strum":
            ups = [(beat + span / 2, span / 2, tones[1:], 0.4) for beat in beats[1:]]
            return [(beat, span * 0.9, tones, 0.6) for beat in beats] + ups
        if self._style.pattern == "offbeat":
            return [(beat + span / 2, span * 0.4, tones, 0.6) for beat in beats]
        if self._style.pattern == "arpeggio":
            step = 1.0 if self._metre == 6 else 0.5
            count = int(metre / step)
            up = [*tones, tones[0] + 12]
            order = [up[int(self._arpeggio[i % 4])] for i in range(count)]
            return [(i * step, step * 1.4, [tone], 0.6) for i, tone in enumerate(order)]
        return [(0.0, metre * 0.95, tones, 0.6)]

    def _pad_events(self) -> list[Event]:
        events = []
        for bar, chord in enumerate(self._chords):
            for tone in self._voicing(chord, 60):
                events.append(Event(bar * self._bar, self._bar, tone, 0.5))
        return events

    def _bass_events(self) -> list[Event]:
        events = []
        for bar, chord in enumerate(self._chords):
            root = 36 + (self._middle + chord.root) % 12
            root = root - 12 if root > 43 else root
            following = self._chords[min(bar + 1, len(self._chords) - 1)]
            for at, length, tone, loud in self._bass_line(root, chord, following):
                start = bar * self._bar + at * self._unit
                velocity = loud * self._vary(bar * 13 + int(at * 2))
                events.append(Event(start, length * self._unit, tone, velocity))
        return events

    def _bass_line(
        self, root: int, chord: harmony.Chord, following: harmony.Chord
    ) -> list[tuple[float, float, int, float]]:
        """(start, length in units, MIDI, loudness) of one bar."""
        metre, beats = float(self._metre), self._beats()
        span = metre / len(beats)
        line = self._style.bass_line
        if line == "pedal":
            return [(0.0, metre * 0.95, root, 0.7)]
        if line == "fifths":
            half = beats[len(beats) // 2]
            return [(0.0, half * 0.9, root, 0.8), (half, span * 0.9, root + 7, 0.7)]
        if line == "octaves":
            pairs = [(beat, span / 2 * 0.8, root, 0.8) for beat in beats]
            return pairs + [(beat + span / 2, span / 2 * 0.8, root + 12, 0.6) for beat in beats]
        if line == "walking":
            target = 36 + (self._middle + following.root) % 12
            approach = target - 1 if target > root else target + 1
            steps = [root, root + chord.tones[1], root + chord.tones[2], approach]
            return [(beat, span * 0.9, steps[i % 4], 0.75) for i, beat in enumerate(beats)]
        if line == "syncopated" and self._metre == 4:
            return [(0, 1.3, root, 0.85), (1.5, 0.9, root, 0.7), (3, 0.8, root + 7, 0.7)]
        return [(beat, span * 0.9, root, 0.75) for beat in beats]


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
