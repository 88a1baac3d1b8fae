"""Maps over time in bounded memory: long inputs pass through a network tile by tile.

A tile is a window of fixed length, so that one compiled program serves them all. Each tile keeps
the frames that lie `context` or more from its cut ends; where the receptive field is no longer than
that, the result is the untiled one. Tiles at the ends of a song end where the song does.
"""

from collections.abc import Callable

import numpy as np

from acestep_jax import units
from acestep_jax.typing import Array

ENCODE_WINDOW, ENCODE_CONTEXT = 750, 50
"""Frames of a tile of audio and of its context: the release's 30 s and 2 s."""
DECODE_WINDOW, DECODE_CONTEXT = 512, 64
"""Frames of a tile of latents and of its context, as in the release with memory to spare."""


def plan_tiles(num_frames: int, window: int, context: int) -> list[tuple[int, int, int]]:
    """Plans tiles over `num_frames` >= `window` frames.

    Returns:
      (start, low, high): the window at `start` gives its frames low..high; together they cover
      every frame once.

    Raises:
      ValueError: if the context leaves nothing of a window, or the window is longer than the input.
    """
    if not 0 <= 2 * context < window <= num_frames:
        raise ValueError(
            f"windows of {window} frames with {context} of context on either side cannot cover "
            f"{num_frames}; use 2 context < window <= length."
        )
    plan, covered = [], 0
    while covered < num_frames:
        start = min(max(0, covered - context), num_frames - window)
        last = start + window == num_frames
        high = window if last else window - context
        plan.append((start, covered - start, high))
        covered = start + high
    return plan


def map_tiles(
    function: Callable[[Array], Array],
    x: Array,
    *,
    window: int,
    context: int,
    rate_in: int = 1,
    rate_out: int = 1,
) -> np.ndarray:
    """Applies a network along time: [B, rate_in N, ...] -> [B, rate_out N, ...], on the host.

    Args:
      function: of one window, compiled; [B, rate_in F, ...] -> [B, rate_out F, ...].
      x: input; what is left over beyond whole frames is not read.
      window: frames of a tile; inputs no longer than that pass whole.
      context: frames on either side of a cut that a tile does not keep.
      rate_in, rate_out: samples of input and of output for each frame.
    """
    num_frames = x.shape[1] // rate_in
    if num_frames <= window:
        return np.asarray(function(x[:, : num_frames * rate_in]))
    pieces = []
    for start, low, high in plan_tiles(num_frames, window, context):
        tile = function(x[:, start * rate_in : (start + window) * rate_in])
        pieces.append(np.asarray(tile[:, low * rate_out : high * rate_out]))
    return np.concatenate(pieces, axis=1)


def encode_tiled(
    encode: Callable[[Array], Array],
    audio: Array,
    *,
    window: int = ENCODE_WINDOW,
    context: int = ENCODE_CONTEXT,
) -> np.ndarray:
    """Encodes audio [B, W, 2] of any length to latents [B, floor(W / 1920), C]."""
    hop = units.SAMPLES_PER_FRAME
    return map_tiles(encode, audio, window=window, context=context, rate_in=hop)


def decode_tiled(
    decode: Callable[[Array], Array],
    latents: Array,
    *,
    window: int = DECODE_WINDOW,
    context: int = DECODE_CONTEXT,
) -> np.ndarray:
    """Decodes latents [B, T, C] of any length to audio [B, 1920 T, 2]."""
    hop = units.SAMPLES_PER_FRAME
    return map_tiles(decode, latents, window=window, context=context, rate_out=hop)
