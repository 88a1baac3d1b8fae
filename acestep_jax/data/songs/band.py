"""The accompaniment: drums, bass, chords and pad over one chord a bar."""

from collections.abc import Sequence

import numpy as np

from acestep_jax.data.songs import harmony, styles
from acestep_jax.data.songs.score import Event, Part, Stroke


class Band:
    """Plays a style over chords; every choice comes from the generator given at the start."""

    def __init__(
        self,
        style: styles.Style,
        metre: int,
        unit: float,
        middle: int,
        chords: Sequence[harmony.Chord],
        intro_bars: int,
        rng: np.random.Generator,
    ) -> None:
        self._style, self._metre, self._unit = style, metre, unit
        self._middle, self._chords, self._intro_bars = middle, chords, intro_bars
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
        first = self._intro_bars if self._drum_free else 0
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
