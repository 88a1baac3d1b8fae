"""Rotary position embedding in the half-split layout.

Channel k of a head turns together with channel k + H/2, by the angle position · theta^(-2k/H):

  y_k       = x_k · cos - x_{k+H/2} · sin
  y_{k+H/2} = x_{k+H/2} · cos + x_k · sin

Su et al. 2021, arXiv:2104.09864; the split into halves is that of GPT-NeoX, Qwen3 and ACE-Step 1.5.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from acestep_jax.typing import Array


class Rotation(NamedTuple):
    """Cosines and sines of every angle, both float32 [..., T, H/2]."""

    cos: Array
    sin: Array


def inverse_frequencies(head_dim: int, theta: float, *, bfloat16: bool = False) -> np.ndarray:
    """Computes theta^(-2k/H) for k = 0 .. H/2 - 1, float32 [H/2].

    Args:
      head_dim: channels of one head (H), even.
      theta: base of the geometric sequence.
      bfloat16: round to bfloat16, as the release does by casting its buffers with the weights;
        the phase is then off by up to 0.87 rad at distance 750. Off, the maths is as published.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(theta) ** exponents).astype(np.float32)
    if bfloat16:
        frequencies = frequencies.astype(jnp.bfloat16).astype(np.float32)
    return frequencies


def rotation_at(positions: Array, frequencies: np.ndarray | Array) -> Rotation:
    """Tabulates cos and sin of position · frequency.

    Args:
      positions: integers [..., T].
      frequencies: radians a position [H/2].
    """
    angles = jnp.einsum("...,F->...F", positions.astype(jnp.float32), jnp.asarray(frequencies))
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Array, rotation: Rotation) -> Array:
    """Turns queries or keys [B, T, N, H] by a table [T, H/2] or [B, T, H/2].

    The product is in the dtype of `x`, as in the release; only the table is made in float32.
    """
    cos = rotation.cos.astype(x.dtype)[..., None, :]
    sin = rotation.sin.astype(x.dtype)[..., None, :]
    if cos.ndim < x.ndim:
        cos, sin = cos[None], sin[None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
