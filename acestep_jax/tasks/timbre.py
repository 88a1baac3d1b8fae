"""What a reference gives of its sound: half a minute from its beginning, middle and end."""

import numpy as np

from acestep_jax import units

SEGMENTS = 3
"""One from each third of the reference, as the release takes them."""


def choose_segments(
    audio: np.ndarray, num_frames: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Cuts a reference [W, 2] to `num_frames` latent frames of sound: [1920 num_frames, 2].

    A short reference is repeated until it lasts that long. From each third of it comes a segment of
    a third of the wanted length, at a place that `rng` draws; without `rng`, at the beginning, from
    the middle third's start, and at the end.

    Args:
      audio: [W, 2] at 48 kHz, W > 0.
      num_frames: 750 for released models: 30 s.
      rng: seeded with the song's seed, so that a song can be made again.
    """
    wanted = num_frames * units.SAMPLES_PER_FRAME
    if len(audio) < wanted:
        audio = np.tile(audio, (-(-wanted // len(audio)), 1))
    third, length = len(audio) // SEGMENTS, wanted // SEGMENTS
    room = max(0, third - length)
    if rng is None:
        starts = [0, third, len(audio) - length]
    else:
        starts = [i * third + int(rng.integers(room + 1)) for i in range(SEGMENTS)]
    pieces = [audio[start : start + length] for start in starts]
    missing = wanted - SEGMENTS * length  # of lengths that three does not divide
    return np.concatenate([*pieces, audio[:missing]]).astype(np.float32)
