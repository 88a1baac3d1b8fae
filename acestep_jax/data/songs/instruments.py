"""Pitched instruments: four groups of harmonics, each a wavetable with its own envelope.

A note is sum_g e_g(t) w_g(phi(t)): group g holds harmonics 1, 2-3, 4-8 or 9 and above, so that a
plucked string loses its brightness first, while a note costs four table look-ups a sample however
many harmonics it has. Two voices detuned against each other, left and right, make sustained sounds
wide. All tables are band-limited: no harmonic above 17 kHz.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from acestep_jax import units

_TABLE = 2048
_GROUPS = ((1, 1), (2, 3), (4, 8), (9, 80))
_TOP_HZ = 17_000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instrument:
    """One timbre.

    Attributes:
      track: the official track name its stem belongs to.
      spectrum: amplitude of harmonic k (array in, array out).
      cutoff: Hz above which harmonics fall off; scales with how hard the note is played.
      attack, release: seconds.
      decay: 1/s by which the fundamental dies away; 0 sustains.
      damping: extra 1/s for each group above the first.
      vibrato: cents, fades in after 0.25 s.
      detune: cents between the left and the right voice.
      octave: octaves added to what is written.
      level: loudness relative to others.
    """

    track: str
    spectrum: Callable[[np.ndarray], np.ndarray]
    cutoff: float = 6000.0
    attack: float = 0.01
    release: float = 0.08
    decay: float = 0.0
    damping: float = 0.0
    vibrato: float = 0.0
    detune: float = 4.0
    octave: int = 0
    level: float = 1.0


def _saw(k: np.ndarray) -> np.ndarray:
    return 1.0 / k


def _square(k: np.ndarray) -> np.ndarray:
    return (k % 2) / k


def _triangle(k: np.ndarray) -> np.ndarray:
    return (k % 2) / k**2


def _pulse(width: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda k: np.abs(np.sin(np.pi * k * width)) / k


def _plucked(position: float, slope: float) -> Callable[[np.ndarray], np.ndarray]:
    """A string plucked at a share of its length: sin(pi k p) / k^slope."""
    return lambda k: np.abs(np.sin(np.pi * k * position)) / k**slope


def _bars(*amplitudes: float) -> Callable[[np.ndarray], np.ndarray]:
    table = np.zeros(200)
    table[: len(amplitudes)] = amplitudes
    return lambda k: table[np.asarray(k, int) - 1]


INSTRUMENTS: Mapping[str, Instrument] = {
    "piano": Instrument(
        track="keyboard",
        spectrum=_plucked(0.12, 1.1),
        cutoff=3500,
        attack=0.003,
        release=0.15,
        decay=1.4,
        damping=1.3,
        detune=2,
    ),
    "electric piano": Instrument(
        track="keyboard",
        spectrum=_bars(1, 0.35, 0.05, 0.22, 0.02, 0.1, 0, 0.08),
        cutoff=4000,
        attack=0.004,
        release=0.12,
        decay=1.6,
        damping=2.5,
    ),
    "organ": Instrument(
        track="keyboard",
        spectrum=_bars(1, 0.8, 0.5, 0.4, 0, 0.25, 0, 0.2, 0, 0.1),
        cutoff=7000,
        attack=0.015,
        vibrato=6,
        level=0.55,
    ),
    "music box": Instrument(
        track="keyboard",
        spectrum=_bars(1, 0.1, 0, 0.45, 0, 0, 0.12),
        cutoff=9000,
        attack=0.002,
        release=0.4,
        decay=2.6,
        damping=2.0,
        octave=1,
    ),
    "glass bells": Instrument(
        track="keyboard",
        spectrum=_bars(1, 0, 0.4, 0, 0.3, 0, 0, 0.15, 0, 0, 0.1),
        cutoff=9000,
        attack=0.003,
        release=0.5,
        decay=1.5,
        damping=1.5,
        detune=7,
        octave=1,
        level=0.8,
    ),
    "acoustic guitar": Instrument(
        track="guitar",
        spectrum=_plucked(0.19, 0.9),
        cutoff=4200,
        attack=0.002,
        release=0.1,
        decay=2.0,
        damping=1.6,
    ),
    "electric guitar": Instrument(
        track="guitar",
        spectrum=_plucked(0.23, 0.6),
        cutoff=2600,
        attack=0.004,
        decay=0.7,
        damping=0.4,
        detune=9,
        vibrato=5,
        level=0.8,
    ),
    "banjo": Instrument(
        track="guitar",
        spectrum=_plucked(0.09, 0.6),
        cutoff=6000,
        attack=0.001,
        release=0.05,
        decay=5.0,
        damping=1.5,
    ),
    "harp": Instrument(
        track="strings",
        spectrum=_plucked(0.3, 1.3),
        cutoff=4000,
        attack=0.003,
        release=0.3,
        decay=1.5,
        damping=1.2,
    ),
    "violin": Instrument(
        track="strings",
        spectrum=_saw,
        cutoff=5500,
        attack=0.06,
        release=0.1,
        vibrato=18,
        detune=5,
        level=0.75,
    ),
    "string ensemble": Instrument(
        track="strings",
        spectrum=_saw,
        cutoff=3200,
        attack=0.22,
        release=0.3,
        vibrato=10,
        detune=14,
        level=0.6,
    ),
    "cellos": Instrument(
        track="strings",
        spectrum=_saw,
        cutoff=1800,
        attack=0.08,
        release=0.15,
        vibrato=10,
        detune=8,
    ),
    "flute": Instrument(
        track="woodwinds",
        spectrum=_bars(1, 0.45, 0.16, 0.06, 0.03),
        cutoff=8000,
        attack=0.05,
        vibrato=12,
        octave=1,
        level=0.8,
    ),
    "clarinet": Instrument(
        track="woodwinds",
        spectrum=lambda k: np.where(k % 2 == 1, 1.0, 0.12) / k,
        cutoff=3800,
        attack=0.04,
        vibrato=5,
        level=0.85,
    ),
    "trumpet": Instrument(
        track="brass",
        spectrum=_bars(0.7, 1, 0.9, 0.7, 0.55, 0.4, 0.3, 0.2, 0.15, 0.1, 0.06),
        cutoff=5500,
        attack=0.03,
        vibrato=9,
        level=0.6,
    ),
    "brass section": Instrument(
        track="brass",
        spectrum=_bars(0.8, 1, 0.8, 0.6, 0.45, 0.3, 0.22, 0.15, 0.1, 0.06),
        cutoff=4200,
        attack=0.04,
        detune=11,
        level=0.55,
    ),
    "horns": Instrument(
        track="brass",
        spectrum=_bars(1, 0.7, 0.45, 0.25, 0.13, 0.07),
        cutoff=2500,
        attack=0.09,
        release=0.2,
        detune=6,
        level=0.7,
    ),
    "tuba": Instrument(
        track="brass",
        spectrum=_bars(1, 0.7, 0.4, 0.2, 0.1, 0.05),
        cutoff=1500,
        attack=0.03,
        detune=2,
    ),
    "saw lead": Instrument(
        track="synth", spectrum=_saw, cutoff=5000, attack=0.008, detune=16, vibrato=5, level=0.6
    ),
    "square lead": Instrument(
        track="synth", spectrum=_square, cutoff=7000, attack=0.004, detune=3, vibrato=8, level=0.6
    ),
    "synth pluck": Instrument(
        track="synth",
        spectrum=_pulse(0.28),
        cutoff=5200,
        attack=0.003,
        decay=4.0,
        damping=2.5,
        detune=10,
    ),
    "synth stab": Instrument(
        track="synth", spectrum=_saw, cutoff=4200, attack=0.004, decay=3.0, damping=1.5, detune=18
    ),
    "synth pad": Instrument(
        track="synth",
        spectrum=_pulse(0.37),
        cutoff=1700,
        attack=0.35,
        release=0.5,
        detune=20,
        level=0.7,
    ),
    "electric bass": Instrument(
        track="bass",
        spectrum=_plucked(0.2, 1.0),
        cutoff=1300,
        attack=0.004,
        release=0.05,
        decay=1.0,
        damping=1.5,
        detune=0,
    ),
    "upright bass": Instrument(
        track="bass",
        spectrum=_plucked(0.35, 1.5),
        cutoff=900,
        attack=0.008,
        release=0.08,
        decay=2.2,
        damping=2.5,
        detune=0,
    ),
    "synth bass": Instrument(
        track="bass", spectrum=_saw, cutoff=900, attack=0.004, decay=1.2, damping=3.0, detune=3
    ),
    "sub bass": Instrument(
        track="bass", spectrum=_bars(1, 0.18, 0.05), cutoff=800, attack=0.01, detune=0
    ),
    "triangle bass": Instrument(track="bass", spectrum=_triangle, cutoff=4000, detune=0),
}
"""Every pitched instrument by the name that styles and captions use."""


def midi_to_hz(midi: np.ndarray | float) -> np.ndarray | float:
    """Converts MIDI pitch to Hz; 69 is 440 Hz."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def play_note(name: str, midi: int, seconds: float, velocity: float) -> np.ndarray:
    """Renders one note, release included, as stereo float32 [W, 2].

    Args:
      name: a key of `INSTRUMENTS`.
      midi: written pitch.
      seconds: how long the key is held; rounded to 10 ms, so that equal notes are rendered once.
      velocity: loudness in (0, 1]; harder is brighter; rounded to eighths.
    """
    eighths = max(1, round(velocity * 8))
    return _play(name, midi, max(2, round(seconds * 100)), eighths)


@functools.lru_cache(maxsize=512)
def _play(name: str, midi: int, centiseconds: int, eighths: int) -> np.ndarray:
    instrument = INSTRUMENTS[name]
    hold = centiseconds / 100
    time = np.arange(int((hold + instrument.release) * units.SAMPLE_RATE)) / units.SAMPLE_RATE
    hz = float(midi_to_hz(midi + 12 * instrument.octave))
    tables = _tables(name, midi, eighths)
    envelopes = _envelopes(instrument, time, hold)
    sides = [-0.5, 0.5] if instrument.detune else [0.0]
    played = [_voice(tables, envelopes, _phase(instrument, hz, time, side)) for side in sides]
    # each ear hears both voices, its own louder: correlation about 0.8 between left and right
    near, far = np.float32(0.894), np.float32(0.447)
    left, right = near * played[0] + far * played[-1], far * played[0] + near * played[-1]
    gain = np.float32(instrument.level * eighths / 8)
    return gain * np.stack([left, right], axis=1)


@functools.lru_cache(maxsize=2048)
def _tables(name: str, midi: int, eighths: int) -> np.ndarray:
    """One period of each group of harmonics [groups, table + 1], unit RMS in sum."""
    instrument = INSTRUMENTS[name]
    hz = float(midi_to_hz(midi + 12 * instrument.octave))
    k = np.arange(1, 81)
    cutoff = instrument.cutoff * (0.6 + 0.6 * eighths / 8) + hz
    amplitude = instrument.spectrum(k) / np.sqrt(1.0 + (k * hz / cutoff) ** 4)
    amplitude = np.where(k * hz < _TOP_HZ, amplitude, 0.0)
    amplitude = amplitude / np.sqrt(0.5 * np.sum(amplitude**2))
    phase = 2.399963 * k**2  # golden-angle phases keep the crest factor low
    tables = []
    for low, high in _GROUPS:
        spectrum = np.zeros(_TABLE // 2 + 1, complex)
        chosen = slice(low - 1, high)
        spectrum[low : high + 1] = (amplitude * np.exp(1j * phase))[chosen] * _TABLE / 2
        tables.append(np.fft.irfft(spectrum))
    table = np.asarray(tables, np.float32)
    return np.concatenate([table, table[:, :1]], axis=1)


def _envelopes(instrument: Instrument, time: np.ndarray, hold: float) -> np.ndarray:
    """Attack, decay by group, release: [groups, W]."""
    attack = np.minimum(time / instrument.attack, 1.0)
    release = np.clip((hold + instrument.release - time) / instrument.release, 0.0, 1.0) ** 2
    rates = instrument.decay + instrument.damping * np.arange(len(_GROUPS))
    shape = np.exp(-rates[:, None] * time[None, :])
    return (attack * release * shape).astype(np.float32)


def _phase(instrument: Instrument, hz: float, time: np.ndarray, side: float) -> np.ndarray:
    """Periods elapsed at each sample, vibrato and detuning included."""
    shifted = hz * 2.0 ** (side * instrument.detune / 1200)
    phase = shifted * time + 0.31 * side
    if instrument.vibrato:
        depth = np.clip((time - 0.25) / 0.3, 0.0, 1.0)
        cents = instrument.vibrato * np.log(2) / 1200
        phase = phase + depth * shifted * cents / (2 * np.pi * 5.4) * np.sin(2 * np.pi * 5.4 * time)
    return phase


def _voice(tables: np.ndarray, envelopes: np.ndarray, phase: np.ndarray) -> np.ndarray:
    position = (phase % 1.0) * _TABLE
    index = position.astype(np.int64)
    fraction = (position - index).astype(np.float32)
    wave = np.zeros(len(phase), np.float32)
    for table, envelope in zip(tables, envelopes, strict=True):
        if table.any():
            wave += envelope * (table[index] * (1 - fraction) + table[index + 1] * fraction)
    return wave
