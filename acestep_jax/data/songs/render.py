"""Renders a score to 48 kHz stereo stems and their mix, with exact labels.

Each stem is filtered once in the frequency domain: equaliser, position and room together, so that
the stems add up to the mix exactly. Rooms, levels and equalisers vary with the seed.
"""

import dataclasses

import numpy as np

from acestep_jax import units
from acestep_jax.data import labels
from acestep_jax.data.songs import (
    arrange,
    captions,
    compose,
    drums,
    instruments,
    notation,
    styles,
    tunes,
    voice,
)
from acestep_jax.data.songs import score as score_lib

_LEVELS = {"lead": 0.08, "chords": 0.05, "pad": 0.035, "bass": 0.07, "drums": 0.07, "vocals": 0.11}
"""RMS of each role while it sounds, before the seed varies it by a few dB."""
_WET = {"bass": 0.02, "drums": 0.12, "vocals": 0.25}
_WET_OTHER = 0.3
_SINGERS = {
    "female": voice.Singer(size=1.06, vibrato=0.3),
    "male": voice.Singer(size=0.9, octave=-1, vibrato=0.25, tilt=-9.0),
    "child": voice.Singer(size=1.2, vibrato=0.15, breath=0.03),
}


@dataclasses.dataclass(frozen=True)
class Song:
    """A rendered song: mix and stems [W, 2] float32, and what is known about it."""

    mix: np.ndarray
    stems: dict[str, np.ndarray]
    labels: labels.SongLabels


def render_song(seed: int, *, max_seconds: float = 60.0) -> Song:
    """Draws a tune, an arrangement and a singer from `seed` and renders them.

    Args:
      seed: the same seed gives the same samples.
      max_seconds: longer songs are drawn anew with a derived seed.

    Raises:
      ValueError: if nothing short enough was found in 50 draws.
    """
    score, singer, rng = choose_score(seed, max_seconds=max_seconds)
    return render_score(song_name(seed), score, singer, rng)


def song_name(seed: int) -> str:
    """Names the song of a seed."""
    return f"own-{seed:06d}"


def choose_score(
    seed: int, *, max_seconds: float = 60.0
) -> tuple[score_lib.Score, str | None, np.random.Generator]:
    """Decides what the song of `seed` is, without rendering it: score, singer, further draws.

    Arguments and errors are those of `render_song`.
    """
    for attempt in range(50):
        rng = np.random.default_rng([seed, attempt])
        score, singer = draw_score(seed, rng)
        if score.seconds <= max_seconds:
            return score, singer, rng
    raise ValueError(f"no song of at most {max_seconds} s for seed {seed}; allow at least 20 s.")


def draw_score(seed: int, rng: np.random.Generator) -> tuple[score_lib.Score, str | None]:
    """Draws what to play and who sings (None: nobody): half traditional, half composed tunes."""
    if rng.random() < 0.5:
        table = tunes.traditional_tunes()
        tune = table[int(rng.integers(len(table)))]
    else:
        tune = compose.compose_tune(seed, int(rng.choice([3, 4, 4, 4, 6])))
    fitting = [style for style in styles.STYLES if tune.metre in style.metres]
    style = fitting[int(rng.integers(len(fitting)))]
    singer = str(rng.choice(list(_SINGERS))) if rng.random() < 0.75 else None
    return arrange.arrange(tune, style, sung=singer is not None, rng=rng), singer


def render_score(
    name: str, score: score_lib.Score, singer: str | None, rng: np.random.Generator
) -> Song:
    """Renders every stem of a score, their sum, and the labels."""
    num_samples = int(score.seconds * units.SAMPLE_RATE)
    dry = _instrument_stems(score, num_samples, rng)
    words: list[labels.Word] = []
    sheet = score_lib.lyric_sheet(score)
    if singer is not None:
        dry["vocals"], words = _vocal_stem(score, singer, sheet, num_samples, rng)
    room = _Room(num_samples, rng)
    stems = {track: room.place(track, wave) for track, wave in dry.items()}
    peak = np.abs(sum(stems.values())).max()
    gain = np.float32(rng.uniform(0.55, 0.95) / peak)
    stems = {track: wave * gain for track, wave in stems.items()}
    mix = np.sum(np.stack(list(stems.values())), axis=0, dtype=np.float32)
    return Song(mix, stems, _labels(name, score, singer, sheet, words, rng))


def _instrument_stems(
    score: score_lib.Score, num_samples: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Plays all notes and strokes into one dry buffer a track."""
    dry: dict[str, np.ndarray] = {}
    for part in score.parts:
        wave = np.zeros((num_samples, 2), np.float32)
        for event in part.events:
            note = instruments.play_note(part.instrument, event.midi, event.seconds, event.velocity)
            _add(wave, event.start, note)
        level = _LEVELS[part.role] * _decibels(rng.uniform(-3, 3))
        track = instruments.INSTRUMENTS[part.instrument].track
        levelled = _to_level(wave, level) * _pan_gains(part.pan)
        dry[track] = dry[track] + levelled if track in dry else levelled
    if score.strokes:
        kit, wave = drums.make_kit(rng), np.zeros((num_samples, 2), np.float32)
        for stroke in score.strokes:
            _add(wave, stroke.start, kit[stroke.piece] * np.float32(stroke.velocity))
        dry["drums"] = _to_level(wave, _LEVELS["drums"] * _decibels(rng.uniform(-3, 3)))
    return {track: buffer for track, buffer in dry.items() if buffer.any()}


def _decibels(gain: float) -> float:
    return float(10 ** (gain / 20))


def _to_level(wave: np.ndarray, level: float) -> np.ndarray:
    """Scales a wave so that its RMS is `level` over the samples where it sounds."""
    sounding = np.abs(wave).max(axis=1) > 1e-4
    if not sounding.any():
        return wave
    return wave * np.float32(level / np.sqrt(np.mean(wave[sounding] ** 2)))


def _vocal_stem(
    score: score_lib.Score,
    singer: str,
    sheet: list[labels.Line],
    num_samples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[labels.Word]]:
    """Sings all lines; returns the dry stem and every word with its times."""
    syllables = [s for line in score.sung for _, word in line.words for s in word]
    mono, times = voice.sing(syllables, score.tune.language, _SINGERS[singer], num_samples, rng)
    lines = [i for i, line in enumerate(sheet) if not line.text.startswith("[")]
    words, at = [], 0
    for line, index in zip(score.sung, lines, strict=True):
        for text, sung in line.words:
            start, end = times[at][0], times[at + len(sung) - 1][1]
            words.append(labels.Word(text, round(start, 3), round(end, 3), index))
            at += len(sung)
    level = _LEVELS["vocals"] * _decibels(rng.uniform(-2, 3))
    return _to_level(np.repeat(mono[:, None], 2, axis=1), level), words


def _pan_gains(pan: float) -> np.ndarray:
    """Constant-power gains of left and right; 1 in the middle."""
    angle = (pan + 1) * np.pi / 4
    return (np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32)


def _add(buffer: np.ndarray, start: float, wave: np.ndarray) -> None:
    """Adds a wave at `start` seconds; what reaches beyond the song's end is cut off."""
    first = round(start * units.SAMPLE_RATE)
    piece = wave[: max(0, len(buffer) - first)]
    buffer[first : first + len(piece)] += piece


class _Room:
    """One room and mixing desk: equaliser, early and late reflections, different left and right."""

    def __init__(self, num_samples: int, rng: np.random.Generator) -> None:
        tail = int(rng.uniform(0.3, 1.8) * units.SAMPLE_RATE)
        self._length, self._rng = num_samples, rng
        block = 1 << 15  # sizes with small prime factors keep the transform fast
        self._size = -(-(num_samples + tail) // block) * block
        self._amount = rng.uniform(0.4, 1.4)
        self._hz = np.fft.rfftfreq(self._size, 1 / units.SAMPLE_RATE).astype(np.float32)
        self._response = np.fft.rfft(self._impulse(tail), self._size, axis=0)

    def _impulse(self, tail: int) -> np.ndarray:
        """Noise that dies away by 60 dB, after 8-25 ms of silence; unit energy."""
        noise = self._rng.standard_normal((tail, 2)).astype(np.float32)
        noise *= np.exp(-6.9 * np.arange(tail, dtype=np.float32) / tail)[:, None]
        noise[: int(self._rng.uniform(0.008, 0.025) * units.SAMPLE_RATE)] = 0
        return noise / np.sqrt((noise**2).sum(axis=0))

    def place(self, track: str, wave: np.ndarray) -> np.ndarray:
        """Filters one stem [W, 2]."""
        spectrum = np.fft.rfft(wave, self._size, axis=0)
        wet = np.float32(self._amount * _WET.get(track, _WET_OTHER))
        damp = 1 / (1 + (self._hz / 6000) ** 2)  # air takes the highs of the reflections
        mid = spectrum.mean(axis=1, keepdims=True)
        spectrum = spectrum + wet * (0.5 * spectrum + 0.5 * mid) * self._response * damp[:, None]
        placed = np.fft.irfft(spectrum * self._equaliser()[:, None], self._size, axis=0)
        return placed[: self._length].astype(np.float32)

    def _equaliser(self) -> np.ndarray:
        """A tilt of up to 3 dB a side around 1 kHz, and a cut below 30 Hz."""
        tilt = self._rng.uniform(-3, 3)
        octaves = np.log2(np.maximum(self._hz, 20) / 1000)
        gain = 10 ** (tilt * np.tanh(octaves / 2) / 20)
        return (gain * self._hz**2 / (self._hz**2 + 30**2)).astype(np.float32)


def _labels(
    name: str,
    score: score_lib.Score,
    singer: str | None,
    sheet: list[labels.Line],
    words: list[labels.Word],
    rng: np.random.Generator,
) -> labels.SongLabels:
    group = melody_group(score.tune)
    return labels.SongLabels(
        name=name,
        group=group,
        split=labels.split_of(group),
        seconds=int(score.seconds * units.SAMPLE_RATE) / units.SAMPLE_RATE,
        captions=captions.describe(score, singer, 4, rng),
        bpm=score.bpm,
        keyscale=score.keyscale,
        timesignature=str(score.tune.metre),
        language=score.tune.language if singer else "unknown",
        instrumental=singer is None,
        lines=tuple(sheet) if singer else (),
        words=tuple(words),
        chords=score.chords,
        licence="own work",
        artist="acestep-jax",
        title=score.tune.title,
        source=f"{score.tune.name}, {score.style.name}",
    )


def melody_group(tune: notation.Tune) -> str:
    """Names the family of tunes that begin alike: "Twinkle" and "Baa, Baa" are one melody."""
    return next(
        (known.name for known in tunes.traditional_tunes() if _opening(known) == _opening(tune)),
        tune.name,
    )


def _opening(tune: notation.Tune) -> tuple[int | None, ...]:
    return tuple(note.pitch for note in tune.lines[0].notes[:4])
