"""A formant voice that sings syllables at given times.

Source and filter, as in the vocal tract: a harmonic source at the sung pitch and white noise are
shaped, in overlapping windows, by spectral envelopes that follow the phonemes. The times of the
words are therefore those of the synthesis itself.

The vowel of a syllable starts on its note; the consonants before it take time from the syllable
before, those after it from its own end, as singers do.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from acestep_jax import units
from acestep_jax.data.songs import instruments, phonemes

_HOP = 240  # 5 ms: one control frame
_WINDOW = 960
_RATE = units.SAMPLE_RATE / _HOP

_FORMANTS = {
    "a": (800, 1250, 2600, 3500),
    "e": (430, 2050, 2700, 3500),
    "i": (290, 2300, 3050, 3600),
    "o": (450, 850, 2600, 3400),
    "u": (330, 750, 2350, 3300),
    "E": (580, 1850, 2550, 3500),
    "O": (600, 950, 2550, 3400),
    "2": (430, 1550, 2350, 3400),
    "y": (290, 1900, 2250, 3400),
    "@": (500, 1450, 2500, 3500),
    "&": (720, 1700, 2500, 3500),
    "V": (640, 1250, 2550, 3500),
    "m": (280, 1000, 2200, 3300),
    "n": (280, 1550, 2500, 3300),
    "N": (290, 2100, 2600, 3300),
    "l": (370, 1250, 2800, 3400),
    "r": (420, 1350, 1900, 3300),
    "w": (320, 680, 2300, 3300),
    "j": (290, 2250, 3000, 3600),
}
"""Hz of the first four formants, for a grown-up voice of middle size."""


@dataclasses.dataclass(frozen=True)
class _Consonant:
    seconds: float
    voicing: float  # loudness of the harmonic source
    noise: float  # loudness of the noise
    centre: float = 4000.0  # of the noise, Hz
    width: float = 2000.0
    closed: bool = False  # silence first, then a burst


_CONSONANTS = {
    "m": _Consonant(0.07, 0.5, 0.0),
    "n": _Consonant(0.06, 0.5, 0.0),
    "N": _Consonant(0.07, 0.45, 0.0),
    "l": _Consonant(0.06, 0.6, 0.0),
    "r": _Consonant(0.06, 0.55, 0.0),
    "w": _Consonant(0.07, 0.5, 0.0),
    "j": _Consonant(0.06, 0.5, 0.0),
    "f": _Consonant(0.09, 0.0, 0.25, 6500, 4500),
    "v": _Consonant(0.06, 0.35, 0.12, 6000, 4000),
    "s": _Consonant(0.10, 0.0, 0.5, 8000, 2200),
    "z": _Consonant(0.07, 0.3, 0.3, 7500, 2200),
    "S": _Consonant(0.10, 0.0, 0.5, 3800, 1400),
    "Z": _Consonant(0.07, 0.3, 0.3, 3600, 1400),
    "T": _Consonant(0.07, 0.15, 0.15, 6500, 5000),
    "h": _Consonant(0.06, 0.0, 0.2, 1800, 1500),
    "x": _Consonant(0.08, 0.0, 0.35, 2000, 900),
    "p": _Consonant(0.07, 0.0, 0.4, 900, 800, closed=True),
    "t": _Consonant(0.07, 0.0, 0.5, 5500, 2500, closed=True),
    "k": _Consonant(0.07, 0.0, 0.5, 2300, 900, closed=True),
    "b": _Consonant(0.05, 0.15, 0.2, 700, 600, closed=True),
    "d": _Consonant(0.05, 0.15, 0.25, 4200, 2200, closed=True),
    "g": _Consonant(0.05, 0.15, 0.25, 2000, 800, closed=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Syllable:
    """One syllable to sing: (start seconds, MIDI pitch) for each note, and where the last ends."""

    text: str
    notes: tuple[tuple[float, int], ...]
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Singer:
    """One voice.

    Attributes:
      size: scales the formants; below 1 a larger, darker voice.
      octave: octaves added to what is written.
      vibrato: semitones to either side.
      breath: noise mixed into vowels.
      tilt: dB an octave by which the source falls off.
    """

    size: float = 1.0
    octave: int = 0
    vibrato: float = 0.3
    breath: float = 0.02
    tilt: float = -8.0


@dataclasses.dataclass
class _Track:
    """Control curves at 200 Hz."""

    pitch: np.ndarray
    formants: np.ndarray
    voicing: np.ndarray
    noise: np.ndarray
    centre: np.ndarray
    width: np.ndarray


def sing(
    syllables: Sequence[Syllable],
    language: str,
    singer: Singer,
    num_samples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Sings syllables in order.

    Args:
      syllables: in time order, not overlapping.
      language: whose spelling rules apply.
      singer: the voice.
      num_samples: length of the result.
      rng: draws breath and small irregularities of pitch.

    Returns:
      Mono float32 [W], and for each syllable the seconds at which its first phoneme starts and its
      last one ends.
    """
    num_frames = num_samples // _HOP + 1
    spans = _phoneme_spans(syllables, language)
    track = _controls(spans, syllables, singer, num_frames, rng)
    voiced = _harmonic_source(track, num_samples)
    noise = rng.standard_normal(num_samples).astype(np.float32)
    mono = _shape(voiced, noise, track, singer)
    times = [(span[0][1], span[-1][2]) for span in spans]
    return mono, times


def _phoneme_spans(
    syllables: Sequence[Syllable], language: str
) -> list[list[tuple[str, float, float]]]:
    """Gives every phoneme of every syllable its (phoneme, start, end) in seconds."""
    spans, free_from = [], 0.0
    for i, syllable in enumerate(syllables):
        onset, nucleus, coda = phonemes.syllable_phonemes(syllable.text, language)
        start = syllable.notes[0][0]
        follow = syllables[i + 1] if i + 1 < len(syllables) else None
        reserved = _onset_seconds(follow, syllable.end, language)
        end = syllable.end - reserved
        span = _lay(onset, max(free_from, start - 0.25), start, from_end=True)
        coda_seconds = min(_seconds(coda), 0.4 * (end - start))
        vowels = [p for p in nucleus if p in phonemes.VOWELS] or ["@"]
        span += _lay_vowels(vowels, start, end - coda_seconds)
        span += _lay(coda, end - coda_seconds, end, from_end=False)
        spans.append(span)
        free_from = end
    return spans


def _onset_seconds(syllable: Syllable | None, after: float, language: str) -> float:
    """Time that the next syllable's consonants take from this one."""
    if syllable is None or syllable.notes[0][0] > after + 0.02:
        return 0.0
    onset, _, _ = phonemes.syllable_phonemes(syllable.text, language)
    return min(_seconds(onset), 0.12)


def _seconds(consonants: str) -> float:
    return sum(_CONSONANTS[p].seconds for p in consonants if p in _CONSONANTS)


def _lay(
    consonants: str, start: float, end: float, *, from_end: bool
) -> list[tuple[str, float, float]]:
    """Lays consonants into [start, end], shortened if they do not fit."""
    known = [p for p in consonants if p in _CONSONANTS]
    wanted = _seconds("".join(known))
    if not known or end <= start:
        return []
    scale = min(1.0, (end - start) / wanted)
    at = end - wanted * scale if from_end else start
    span = []
    for phoneme in known:
        length = _CONSONANTS[phoneme].seconds * scale
        span.append((phoneme, at, at + length))
        at += length
    return span


def _lay_vowels(vowels: list[str], start: float, end: float) -> list[tuple[str, float, float]]:
    """The first vowel is held; what follows in a diphthong comes in its last third."""
    if len(vowels) == 1:
        return [(vowels[0], start, end)]
    turn = end - min(0.3 * (end - start), 0.18)
    share = (end - turn) / (len(vowels) - 1)
    tail = [(v, turn + i * share, turn + (i + 1) * share) for i, v in enumerate(vowels[1:])]
    return [(vowels[0], start, turn), *tail]


def _controls(
    spans: list[list[tuple[str, float, float]]],
    syllables: Sequence[Syllable],
    singer: Singer,
    num_frames: int,
    rng: np.random.Generator,
) -> _Track:
    """Draws the control curves of all phonemes and smooths them as an articulator would."""
    formants = np.zeros((num_frames, 4))
    voicing, noise = np.zeros(num_frames), np.zeros(num_frames)
    centre, width = np.full(num_frames, 4000.0), np.full(num_frames, 2000.0)
    for span in spans:
        vowel = next(p for p, _, _ in span if p in phonemes.VOWELS)
        for phoneme, start, end in span:
            frames = slice(int(start * _RATE), max(int(start * _RATE) + 1, int(end * _RATE)))
            formants[frames] = _FORMANTS.get(phoneme, _FORMANTS[vowel])
            if phoneme in phonemes.VOWELS:
                voicing[frames], noise[frames] = 1.0, singer.breath
                continue
            consonant = _CONSONANTS[phoneme]
            burst = _burst_frames(frames) if consonant.closed else frames
            voicing[frames], noise[burst] = consonant.voicing, consonant.noise
            centre[frames], width[frames] = consonant.centre, consonant.width
    return _Track(
        pitch=_pitch_curve(syllables, singer, num_frames, rng),
        formants=_smooth(_hold(formants), 9) * singer.size,
        voicing=_smooth(voicing, 5),
        noise=_smooth(noise, 3),
        centre=centre,
        width=width,
    )


def _burst_frames(frames: slice) -> slice:
    """The last 20 ms of a stop: before that the mouth is closed."""
    return slice(max(frames.start, frames.stop - 4), frames.stop)


def _hold(formants: np.ndarray) -> np.ndarray:
    """Fills frames without a phoneme with the last formants before them."""
    known = formants[:, 0] > 0
    last = np.maximum.accumulate(np.where(known, np.arange(len(formants)), -1))
    first = int(known.argmax())
    return formants[np.where(last < 0, first, last)]


def _smooth(curve: np.ndarray, frames: int) -> np.ndarray:
    """Moving mean over an odd number of frames, edges held; columns apart."""
    half = frames // 2
    padded = np.pad(curve, [(half, half)] + [(0, 0)] * (curve.ndim - 1), mode="edge")
    total = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    return (total[frames:] - total[:-frames]) / frames


def _pitch_curve(
    syllables: Sequence[Syllable], singer: Singer, num_frames: int, rng: np.random.Generator
) -> np.ndarray:
    """MIDI pitch a frame: notes joined by short glides, vibrato on long ones, slight drift."""
    pitch = np.full(num_frames, float(syllables[0].notes[0][1]) if syllables else 60.0)
    since = np.zeros(num_frames)
    for syllable in syllables:
        for start, midi in syllable.notes:
            first = max(0, int((start - 0.02) * _RATE))
            pitch[first:] = midi
            since[first:] = np.arange(num_frames - first) / _RATE
    vibrato = singer.vibrato * np.clip((since - 0.25) / 0.3, 0, 1)
    wave = np.sin(2 * np.pi * rng.uniform(5.0, 6.0) * np.arange(num_frames) / _RATE)
    drift = _smooth(rng.standard_normal(num_frames), 41) * 0.25
    return _smooth(pitch, 11) + vibrato * wave + drift + 12 * singer.octave


def _harmonic_source(track: _Track, num_samples: int) -> np.ndarray:
    """A pulse-like wave at the sung pitch with all harmonics up to 12-16 kHz."""
    at = np.arange(num_samples) / _HOP
    hz = instruments.midi_to_hz(np.interp(at, np.arange(len(track.pitch)), track.pitch))
    phase = np.cumsum(hz / units.SAMPLE_RATE) % 1.0
    harmonics = 2 ** np.clip(np.floor(np.log2(15_000 / hz)), 3, 7).astype(int)
    wave = np.zeros(num_samples, np.float32)
    for count in np.unique(harmonics):
        chosen = harmonics == count
        k = np.arange(1, count + 1)
        spectrum = np.zeros(4097, complex)
        spectrum[1 : count + 1] = np.exp(1j * 0.9 * np.sqrt(k)) * 4096
        table = np.fft.irfft(spectrum).astype(np.float32)
        wave[chosen] = table[(phase[chosen] * 8192).astype(int)]
    return wave


def _shape(voiced: np.ndarray, noise: np.ndarray, track: _Track, singer: Singer) -> np.ndarray:
    """Filters both sources frame by frame and adds the frames up again."""
    hop = _WINDOW // 4
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    hz = np.fft.rfftfreq(_WINDOW, 1 / units.SAMPLE_RATE).astype(np.float32)
    count = 4 * (len(voiced) // _WINDOW + 2)
    padded = np.zeros((2, (count + 3) * hop), np.float32)
    padded[:, _WINDOW // 2 : _WINDOW // 2 + len(voiced)] = voiced, noise
    mono = np.zeros(padded.shape[1], np.float32)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW, axis=1)[:, ::hop]
    for first in range(0, count, 400):  # 400 frames, 2 s, at a time keep the memory small
        frames = np.arange(first, min(first + 400, count))
        envelopes = _envelopes(track, np.minimum(frames, len(track.pitch) - 1), hz, singer)
        if not envelopes.any():
            continue
        spectrum = (np.fft.rfft(blocks[:, frames] * window) * envelopes).sum(axis=0)
        pieces = np.fft.irfft(spectrum).astype(np.float32) * window
        for piece, frame in zip(pieces, frames, strict=True):
            mono[frame * hop : frame * hop + _WINDOW] += piece
    return mono[_WINDOW // 2 : _WINDOW // 2 + len(voiced)]


def _envelopes(track: _Track, at: np.ndarray, hz: np.ndarray, singer: Singer) -> np.ndarray:
    """Spectral envelopes [2, frames, bins] of the harmonic source and of the noise."""
    formants = track.formants[at].astype(np.float32)[:, :, None]
    bandwidth = np.array([80, 100, 140, 200], np.float32)[None, :, None]
    weight = np.array([1.0, 0.6, 0.35, 0.22], np.float32)[None, :, None]
    peaks = weight / (1 + ((hz - formants) / bandwidth) ** 2)
    octaves = np.log2(np.maximum(hz, 100.0) / 100.0)
    tilt = 10 ** (octaves * (singer.tilt + 5.0) / 20)  # the formants' skirts give the rest
    voiced = (peaks.sum(axis=1) + 0.006) * tilt * track.voicing[at, None]
    band = np.exp(-0.5 * ((hz - track.centre[at, None]) / track.width[at, None]) ** 2)
    breathy = track.voicing[at, None] * peaks.sum(axis=1)
    hiss = track.noise[at, None] * (band * (1 - track.voicing[at, None]) + breathy)
    return np.stack([0.11 * voiced, 0.06 * hiss]).astype(np.float32)
