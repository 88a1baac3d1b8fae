"""Sound that a request may come with: as arrays, and as files of any format, whole or not."""

import pathlib
from typing import Any

import numpy as np

from acestep_jax import units
from experiments.fuzz.values import Rng, choose

RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
_MAX_RATE = {".mp3": 48_000, ".ogg": 192_000}
_MAX_CHANNELS = {".mp3": 2}
_FRAMES = 250  # of a source that can be used: ten seconds, one bucket


def noise(rng: Rng, samples: int, channels: int = 2) -> np.ndarray:
    """Draws quiet noise [samples, channels]."""
    return (0.1 * rng.standard_normal((samples, channels)).clip(-9, 9)).astype(np.float32)


def usable(rng: Rng) -> np.ndarray:
    """Draws a source that can be used: ten seconds, or a few frames."""
    frames = choose(rng, (_FRAMES,) * 6 + (1, 2, 40))
    return noise(rng, frames * units.SAMPLES_PER_FRAME)


def hostile(rng: Rng) -> Any:
    """Draws an array that is no song, or something that is no array."""
    good = noise(rng, 4800)
    bad = np.array(good)
    bad[int(rng.integers(len(bad)))] = choose(rng, (np.nan, np.inf, -np.inf))
    choices: tuple[Any, ...] = (
        *(good[:0], good[:1], good[:, 0], good[:, :1], noise(rng, 4800, 8), good.T, bad),
        *(good * 0, good * 1e-9, good * 100, good[None], np.float32(0.5), good.tolist()),
        *((good * 2**15).astype(np.int16), good.astype(np.complex64), good.astype(object)),
        *(good > 0, np.array(["a", "b"]), None, "song.wav", b"RIFF", 7, {}, good[:1919]),
        np.broadcast_to(np.float32(0.5), (601 * units.SAMPLE_RATE, 2)),  # a second too long
        good.astype(np.float64),
    )
    return choose(rng, choices)


def write(rng: Rng, folder: pathlib.Path, name: str) -> str:
    """Writes a file that can be used or cannot, and gives its path; at times there is none."""
    path = folder / (name + choose(rng, ENDINGS))
    kind = choose(rng, ("whole",) * 6 + ("nothing", "text", "folder", "absent", "cut", "bytes"))
    if kind == "folder":
        path.mkdir()
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("This is no sound.\n" * int(rng.integers(1, 100)))
    elif kind == "bytes":
        path.write_bytes(rng.bytes(int(rng.integers(1, 5000))))
    elif kind != "absent":
        _write_sound(rng, path)
        if kind == "cut":
            content = path.read_bytes()
            path.write_bytes(content[: int(rng.integers(len(content) + 1))])
    return str(path)


def _write_sound(rng: Rng, path: pathlib.Path) -> None:
    import soundfile

    ending = path.suffix
    rate = min(choose(rng, RATES), _MAX_RATE.get(ending, 192_000))
    channels = min(choose(rng, (1, 2, 2, 2, 6, 8)), _MAX_CHANNELS.get(ending, 8))
    seconds = choose(rng, (10.0,) * 8 + (0.0, 1 / rate, 0.5))
    samples = noise(rng, round(seconds * rate), channels)
    if rng.random() < 0.1:
        samples *= choose(rng, (0.0, 50.0))
    if ending == ".wav" and rng.random() < 0.2 and len(samples):
        samples[int(rng.integers(len(samples)))] = np.nan
    subtype = "FLOAT" if ending == ".wav" else None
    soundfile.write(path, samples, rate, subtype=subtype)
