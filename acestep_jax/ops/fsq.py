"""Finite scalar quantisation: each of a few channels rounds to one of L levels.

A channel z is bounded softly and then clamped, rounded *half up* to a digit, and becomes a value in
[-1, 1]; the digits of all channels, least significant first, make one code:

  u     = clamp(c · tanh(z / c), -1, 1),  c = 1 + 1 / (L - 1)
  digit = floor((L - 1) (u + 1) / 2 + 1/2)            in {0, ..., L - 1}
  value = 2 digit / (L - 1) - 1
  code  = sum_d digit_d · prod_{e < d} L_e

Mentzer et al. 2023, arXiv:2309.15505, in the symmetric variant of vector-quantize-pytorch that the
release uses: ResidualFSQ with one quantizer, hard clamp, no offset for even L.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.typing import Array


def _per_channel(values: np.ndarray, like: Array) -> np.ndarray:
    """Gives constants of each channel the rank of `like` [..., D]."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)


def _steps(levels: Sequence[int], like: Array) -> np.ndarray:
    return _per_channel(np.asarray(levels, np.float32) - 1, like)


def basis(levels: Sequence[int]) -> np.ndarray:
    """Weighs each digit in a code: [1, L_0, L_0 L_1, ...], int32."""
    return np.cumprod([1, *levels[:-1]]).astype(np.int32)


def bound(z: Array, levels: Sequence[int], *, bfloat16: bool = False) -> Array:
    """Squashes channels into [-1, 1]: clamp(c tanh(z / c), -1, 1), c = 1 + 1 / (L - 1).

    Args:
      z: channels [..., len(levels)], float32.
      levels: L of each channel.
      bfloat16: round c to bfloat16 (8/7 becomes 1.140625), as the release loaded in bfloat16 does.
    """
    limits = 1 + 1 / _steps(levels, z)
    if bfloat16:
        limits = limits.astype(jnp.bfloat16).astype(np.float32)
    return jnp.clip(limits * jnp.tanh(z / limits), -1, 1)


def digits_from_values(values: Array, levels: Sequence[int]) -> Array:
    """Rounds values in [-1, 1] half up to digits, int32."""
    return jnp.floor(_steps(levels, values) * (values + 1) / 2 + 0.5).astype(jnp.int32)


def values_from_digits(digits: Array, levels: Sequence[int], *, bfloat16: bool = False) -> Array:
    """Maps digits to values 2 digit / (L - 1) - 1, float32.

    Args:
      digits: int32 [..., len(levels)].
      levels: L of each channel.
      bfloat16: build the values in bfloat16, as the release loaded in bfloat16 does. Eight levels
        are then -1, -0.71484375, -0.4296875, -0.14453125, 0.140625, 0.421875, 0.7109375, 1.
    """
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    step = (2 / _steps(levels, digits)).astype(dtype)
    # rounded by force: a compiler may keep more digits between two bfloat16 operations
    scaled = jax.lax.reduce_precision(digits.astype(dtype) * step, *_precision(dtype))
    return (scaled - jnp.ones((), dtype)).astype(jnp.float32)


def _precision(dtype: jnp.dtype) -> tuple[int, int]:
    info = jnp.finfo(dtype)
    return info.nexp, info.nmant


def quantize(z: Array, levels: Sequence[int], *, bfloat16: bool = False) -> tuple[Array, Array]:
    """Quantises channels with a straight-through gradient.

    Args:
      z: unbounded channels [..., len(levels)]; computed in float32 whatever arrives, because a code
        has up to 16 bits.
      levels: L of each channel.
      bfloat16: use the release's bfloat16 constants, see `bound` and `values_from_digits`.

    Returns:
      Values [..., len(levels)] in [-1, 1], whose gradient is that of `bound`; int32 codes [...].
    """
    bounded = bound(z.astype(jnp.float32), levels, bfloat16=bfloat16)
    digits = digits_from_values(bounded, levels)
    values = values_from_digits(digits, levels, bfloat16=bfloat16)
    straight_through = bounded + jax.lax.stop_gradient(values - bounded)
    return straight_through, codes_from_digits(digits, levels)


def codes_from_digits(digits: Array, levels: Sequence[int]) -> Array:
    """Joins digits [..., D] into codes [...], int32."""
    weights = _per_channel(basis(levels), digits)
    return jnp.sum(digits.astype(jnp.int32) * weights, axis=-1, dtype=jnp.int32)


def digits_from_codes(codes: Array, levels: Sequence[int]) -> Array:
    """Splits codes [...] into digits [..., D], int32; the inverse of `codes_from_digits`."""
    split = codes[..., None]
    sizes = _per_channel(np.asarray(levels, np.int32), split)
    return split // _per_channel(basis(levels), split) % sizes
