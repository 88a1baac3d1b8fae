"""Lengths rounded up to a few sizes, so that one compiled program serves many durations.

Every network masks what lies beyond an item's own length, so an item in a larger bucket gives the
numbers that it gives alone (tests/nn/test_dit.py holds this).
"""

from acestep_jax import units


def frame_bucket(num_frames: int) -> int:
    """Rounds a latent length up to its bucket.

    Buckets are 128 frames apart up to 2,048, then a sixteenth of the next power of two: above 41 s
    at most one eighth is padding.

    Args:
      num_frames: latent frames, 1 to 15,000.

    Returns:
      The bucket's length: a multiple of 128, so whole patches and whole codes' windows fit evenly
      into device tiles.

    Raises:
      ValueError: if the length is not in 1..15,000.
    """
    if not 1 <= num_frames <= units.MAX_FRAMES:
        raise ValueError(
            f"{num_frames} latent frames; a song has 1 to {units.MAX_FRAMES} (ten minutes)."
        )
    return _round_up(num_frames, smallest=128)


def token_bucket(num_tokens: int, limit: int) -> int:
    """Rounds a token count up to its bucket: multiples of 32, then sixteenths of powers of two.

    Raises:
      ValueError: if `num_tokens` exceeds `limit`.
    """
    if not 0 <= num_tokens <= limit:
        raise ValueError(f"{num_tokens} tokens where at most {limit} fit; shorten the text.")
    return min(_round_up(max(num_tokens, 1), smallest=32), limit)


def _round_up(length: int, smallest: int) -> int:
    grain = smallest
    while grain * 16 < length:
        grain *= 2
    return -(-length // grain) * grain
