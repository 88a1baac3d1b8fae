"""Reads and writes audio files: always 48 kHz stereo float32 [W, 2] in [-1, 1] on our side.

`soundfile` decodes and `soxr` resamples; both are imported on use, so that the package loads
without them. A file that cannot serve is refused with `BadAudio`, whose message says why; the
callers count and name such files, and give up when there are too many (`skips.SkipList`).

Songs are prepared block by block (`AudioStream`): a recording of three hours needs no more memory
than one of three minutes.
"""

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from acestep_jax import units

Sound = pathlib.Path | bytes
"""A file, or the content of one."""
BLOCK_SECONDS = 10
"""What is decoded at once."""
SILENCE_PEAK = 1e-6
"""A file whose samples all stay below this is silent; the release's own threshold."""


class BadAudio(ValueError):
    """An audio file that cannot be used; the message names the reason."""


def read_audio(
    path: Sound, *, min_seconds: float = 0.0, max_seconds: float | None = None
) -> np.ndarray:
    """Reads a file as 48 kHz stereo float32 [W, 2].

    Mono is doubled and of more channels the first two are kept, as the release does.

    Args:
      path: a WAV, FLAC, Ogg Vorbis, Opus or MP3 file, or its content.
      min_seconds: shorter files are refused.
      max_seconds: of longer files the middle part of this length is taken; None takes all.

    Raises:
      BadAudio: if the file is unreadable, truncated to nothing, silent, not finite or too short.
    """
    import soundfile

    try:
        with open_sound(path) as file:
            rate = file.samplerate
            if max_seconds is not None and file.frames > max_seconds * rate:
                file.seek(int((file.frames - max_seconds * rate) / 2))
            wanted = -1 if max_seconds is None else int(max_seconds * rate)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise BadAudio(f"unreadable: {error}") from error
    return check_audio(to_stereo_48k(samples, rate), min_seconds=min_seconds)


def to_stereo_48k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resamples [W, channels] at `rate` to 48 kHz stereo, within [-1, 1]."""
    stereo = np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]
    if rate != units.SAMPLE_RATE and len(stereo):
        import soxr

        stereo = soxr.resample(stereo, rate, units.SAMPLE_RATE)
    # the resampler may overshoot full scale by a little; the release clamps its input likewise
    return np.clip(stereo, -1.0, 1.0).astype(np.float32)


def check_audio(samples: np.ndarray, *, min_seconds: float = 0.0) -> np.ndarray:
    """Returns the samples [W, 2] as they are, or says what is wrong with them.

    Raises:
      BadAudio: if they are empty, too short, not finite or silent.
    """
    seconds = len(samples) / units.SAMPLE_RATE
    if len(samples) == 0:
        raise BadAudio("holds no samples")
    if seconds < min_seconds:
        raise BadAudio(f"lasts {len(samples)} samples ({seconds:.2f} s), needs {min_seconds} s")
    if not np.isfinite(samples).all():
        raise BadAudio("holds samples that are not finite")
    if np.abs(samples).max() < SILENCE_PEAK:
        raise BadAudio("is silent")
    return samples


class AudioStream:
    """Iterates over a file as blocks [W, 2] of 48 kHz stereo float32, checking what passes.

    Read to its end, it has refused what `check_audio` refuses, and files that hold less than they
    promise. `samples` counts what was given out, `loudest` is what the file itself reached.
    """

    def __init__(self, sound: Sound, *, min_seconds: float = 0.0, longest: float = np.inf) -> None:
        """Opens nothing yet.

        Args:
          sound: a WAV, FLAC, Ogg Vorbis, Opus or MP3 file, or its content.
          min_seconds: shorter files are refused.
          longest: longer files are refused, before they are decoded.
        """
        self._sound, self._min_seconds, self._longest = sound, min_seconds, longest
        self.samples, self.loudest, self._peak = 0, 0.0, 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        import soundfile

        try:
            with open_sound(self._sound) as file:
                for block in self._resampled(file):
                    self.samples += len(block)
                    self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
                    yield block
        except (soundfile.LibsndfileError, OSError) as error:
            raise BadAudio(f"unreadable: {error}") from error
        self._check()

    def _resampled(self, file: Any) -> Iterator[np.ndarray]:
        rate, seconds = file.samplerate, file.frames / file.samplerate
        if seconds > self._longest:
            raise BadAudio(f"lasts {seconds:.0f} s, more than the {self._longest:.0f} s allowed")
        resample, read = _make_resampler(rate, min(file.channels, 2)), 0
        for block in file.blocks(BLOCK_SECONDS * rate, dtype="float32", always_2d=True):
            if not np.isfinite(block).all():
                at = (read + int(np.argwhere(~np.isfinite(block))[0, 0])) / rate
                raise BadAudio(f"holds samples that are not finite, first at {at:.3f} s")
            read += len(block)
            self.loudest = max(self.loudest, float(np.abs(block).max(initial=0.0)))
            yield _stereo(resample(block[:, :2], False))
        yield _stereo(resample(np.zeros((0, min(file.channels, 2)), np.float32), True))
        if read < file.frames - rate / 10:
            raise BadAudio(f"is truncated: {read / rate:.2f} of {seconds:.2f} s can be read")

    def _check(self) -> None:
        seconds = self.samples / units.SAMPLE_RATE
        if self.samples == 0:
            raise BadAudio("holds no samples")
        if seconds < self._min_seconds:
            raise BadAudio(
                f"lasts {self.samples} samples ({seconds:.2f} s), needs {self._min_seconds} s"
            )
        if self._peak < SILENCE_PEAK:
            raise BadAudio("is silent")


def _make_resampler(rate: int, channels: int) -> Any:
    if rate == units.SAMPLE_RATE:
        return lambda block, last: block
    import soxr

    return soxr.ResampleStream(rate, units.SAMPLE_RATE, channels, dtype="float32").resample_chunk


def _stereo(samples: np.ndarray) -> np.ndarray:
    stereo = np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples
    return np.clip(stereo, -1.0, 1.0)  # as in `to_stereo_48k`


def open_sound(sound: Sound) -> Any:
    """Opens a file or the content of one with soundfile."""
    import soundfile

    return soundfile.SoundFile(io.BytesIO(sound) if isinstance(sound, bytes) else sound)


def read_seconds(sound: Sound) -> float:
    """Reads the length that a file's header promises.

    Raises:
      BadAudio: if it has no readable header.
    """
    import soundfile

    try:
        with open_sound(sound) as file:
            return file.frames / file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise BadAudio(f"unreadable: {error}") from error


def write_flac(path: pathlib.Path, samples: np.ndarray) -> None:
    """Writes [W, 2] float32 as 16-bit FLAC at 48 kHz; a kill leaves no half file under `path`."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    soundfile.write(partial, samples, units.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.replace(path)
