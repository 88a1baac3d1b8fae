"""Reads and writes audio files: always 48 kHz stereo float32 [W, 2] in [-1, 1] on our side.

`soundfile` decodes and `soxr` resamples; both are imported on use, so that the package loads
without them. A file that cannot serve is refused with `BadAudio`, whose message says why; the
callers count and name such files, and give up when there are too many (`SkipList`).
"""

import dataclasses
import pathlib

import numpy as np

from acestep_jax import units

SILENCE_PEAK = 1e-6
"""A file whose samples all stay below this is silent; the release's own threshold."""


class BadAudio(ValueError):
    """An audio file that cannot be used; the message names the reason."""


class TooManyBadFiles(RuntimeError):
    """More files failed than the caller allows; the message lists them."""


def read_audio(
    path: pathlib.Path, *, min_seconds: float = 0.0, max_seconds: float | None = None
) -> np.ndarray:
    """Reads a file as 48 kHz stereo float32 [W, 2].

    Mono is doubled and of more channels the first two are kept, as the release does.

    Args:
      path: a WAV, FLAC, Ogg Vorbis, Opus or MP3 file.
      min_seconds: shorter files are refused.
      max_seconds: of longer files the middle part of this length is taken; None takes all.

    Raises:
      BadAudio: if the file is unreadable, truncated to nothing, silent, not finite or too short.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
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


def write_flac(path: pathlib.Path, samples: np.ndarray) -> None:
    """Writes [W, 2] float32 as 16-bit FLAC at 48 kHz; a kill leaves no half file under `path`."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    soundfile.write(partial, samples, units.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.replace(path)


@dataclasses.dataclass
class SkipList:
    """Counts and names files that were skipped; refuses to go on when they are too many.

    Attributes:
      max_share: the share of all files seen that may be bad.
      grace: this many bad files are always allowed, so that one of three does not stop a run.
    """

    max_share: float = 0.1
    grace: int = 2
    good: int = 0
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    def skip(self, name: str, error: Exception) -> None:
        """Names a bad file on the terminal and remembers why it was skipped."""
        self.reasons[name] = str(error)
        print(f"skipped {name}: {error}", flush=True)

    def finish(self) -> None:
        """Says how many files were skipped, or raises if their share is above `max_share`."""
        bad, seen = len(self.reasons), self.good + len(self.reasons)
        listing = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        if bad > max(self.grace, self.max_share * seen):
            raise TooManyBadFiles(
                f"{bad} of {seen} files are bad, more than {self.max_share:.0%}: {listing}. "
                "Repair or remove them, or allow a larger share."
            )
        if bad:
            print(f"{bad} of {seen} files skipped: {listing}", flush=True)
