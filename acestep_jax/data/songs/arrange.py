"""Arranges a tune: from melody, style, key and tempo to a score in seconds, with every label.

A score lists what each player does. Its sections are an introduction, the sung lines of the tune
under their own tags, an instrumental turn where the song would be short, and an ending.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from acestep_jax.data.songs import band as band_lib
from acestep_jax.data.songs import harmony, notation, styles, voice
from acestep_jax.data.songs.score import Event, Part, Score, Section, SungLine

_SINGABLE = (57, 74)
"""MIDI range that the melody should lie in: A3 to D5."""


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
    band = band_lib.Band(style, tune.metre, unit, middle, chords, blocks[0].bars, rng)
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
