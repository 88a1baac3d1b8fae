"""Maps over time in bounded memory: long inputs pass through a network tile by tile.

A tile is a window of one of a few lengths, so that a few compiled programs serve all songs. Each
tile keeps the frames that lie `context` or more from its cut ends; where the receptive field is no
longer than that, the result is the untiled one. Tiles at the ends of a song end where the song
does.
"""

from collections.abc import Callable, Sequence

import numpy as np

from acestep_jax import units
from acestep_jax.typing import Array

WINDOWS = (128, 192, 256, 320, 384, 448, 512)
"""Frames of a tile: so many programs at most, however many lengths there are."""
CONTEXT = 16
"""Frames on either side that a tile does not keep. The autoencoder hears about ten (a kernel of
seven at the latents' rate, and residual units of reach 39 at ten times that); the release's 64
and 50 cost more and change nothing."""


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


def choose_window(num_frames: int, windows: Sequence[int], context: int) -> int | None:
    """Chooses the window that computes the fewest frames; None where the input is shorter.

    The larger one wins a tie.
    """
    fitting = [window for window in windows if 2 * context < window <= num_frames]
    if not fitting:
        return None
    return min(
        sorted(fitting, reverse=True),
        key=lambda window: window * len(plan_tiles(num_frames, window, context)),
    )


def map_tiles(
    function: Callable[[Array], Array],
    x: Array,
    *,
    windows: Sequence[int] = WINDOWS,
    context: int = CONTEXT,
    rate_in: int = 1,
    rate_out: int = 1,
) -> np.ndarray:
    """Applies a network along time: [B, rate_in N, ...] -> [B, rate_out N, ...], on the host.

    Args:
      function: of one tile, compiled; [B, rate_in F, ...] -> [B, rate_out F, ...].
      x: input; what is left over beyond whole frames is not read.
      windows: lengths of tiles to choose from, in frames; shorter inputs pass whole.
      context: frames on either side of a cut that a tile does not keep.
      rate_in, rate_out: samples of input and of output for each frame.
    """
    num_frames = x.shape[1] // rate_in
    window = choose_window(num_frames, windows, context)
    if window is None:
        return np.asarray(function(x[:, : num_frames * rate_in]))
    pieces = []
    for start, low, high in plan_tiles(num_frames, window, context):
        tile = function(x[:, start * rate_in : (start + window) * rate_in])
        pieces.append(np.asarray(tile[:, low * rate_out : high * rate_out]))
    return np.concatenate(pieces, axis=1)


def encode_tiled(encode: Callable[[Array], Array], audio: Array) -> np.ndarray:
    """Encodes audio [B, W, 2] of any length to latents [B, floor(W / 1920), C]."""
    return map_tiles(encode, audio, rate_in=units.SAMPLES_PER_FRAME)


def decode_tiled(decode: Callable[[Array], Array], latents: Array) -> np.ndarray:
    """Decodes latents [B, T, C] of any length to audio [B, 1920 T, 2]."""
    return map_tiles(decode, latents, rate_out=units.SAMPLES_PER_FRAME)
