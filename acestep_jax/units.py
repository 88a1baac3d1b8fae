"""Rates of the three clocks of ACE-Step 1.5, and the conversions between them.

Audio runs at 48 kHz, latents at 25 Hz, planner codes at 5 Hz. One latent frame spans 1,920 samples
(the product of the autoencoder's strides 2·4·4·6·10), one code spans five frames.
"""

SAMPLE_RATE = 48_000
"""Audio samples a second."""
FRAME_RATE = 25
"""Latent frames a second."""
CODE_RATE = 5
"""Planner codes a second."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
FRAMES_PER_CODE = FRAME_RATE // CODE_RATE
MAX_FRAMES = 15_000
"""Ten minutes: the length of the released silence latent."""
MIN_FRAMES = 128
"""The release never generates fewer latent frames than this (5.12 s)."""


def seconds_to_samples(seconds: float) -> int:
    """Counts the whole samples in `seconds`, truncating as the release does."""
    return int(seconds * SAMPLE_RATE)


def samples_to_frames(samples: int) -> int:
    """Counts the whole latent frames in `samples`: floor(samples / 1920)."""
    return samples // SAMPLES_PER_FRAME


def frames_to_samples(frames: int) -> int:
    """Counts the samples that `frames` latent frames decode to."""
    return frames * SAMPLES_PER_FRAME


def seconds_to_frames(seconds: float) -> int:
    """Counts the whole latent frames in `seconds`."""
    return samples_to_frames(seconds_to_samples(seconds))


def frames_to_codes(frames: int) -> int:
    """Counts the codes that cover `frames` latent frames; the last one may be partly silence."""
    return -(-frames // FRAMES_PER_CODE)


def codes_to_frames(codes: int) -> int:
    """Counts the latent frames that `codes` codes decode to."""
    return codes * FRAMES_PER_CODE
