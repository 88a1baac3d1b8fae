"""Strided and transposed convolutions in one dimension, as matrix products; weight norm.

Where a kernel spans two strides, a strided or transposed convolution is a matrix product or two on
rows of s samples: no zeros are multiplied, and the gradients are matrix products as well. Both
equal the textbook forms (tests/ops/test_convolution.py).
"""

import jax
import jax.numpy as jnp

from acestep_jax.typing import Array


def kernel_norm(kernel: Array, *, axis: int) -> Array:
    """Measures a kernel's length over every axis but `axis`: ‖v‖, one value an entry of `axis`."""
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=others))


def weight_norm(weight_g: Array, weight_v: Array, *, axis: int) -> Array:
    """Computes W = g · v / ‖v‖, the norm over every axis of v [*k, in, out] but `axis`.

    Source: Salimans & Kingma 2016, arXiv:1602.07868.
    """
    shape = [1] * weight_v.ndim
    shape[axis] = -1
    norm = kernel_norm(weight_v, axis=axis)
    return weight_g.reshape(shape) * weight_v / norm.reshape(shape)


def strided_conv(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    """Computes the convolution of stride s for a kernel of two strides, as two matrix products.

    With time cut into rows X[q] of s samples, y[q] = X[q]·K[:s] + X[q+1]·K[s:].

    Args:
      x: [B, W, in].
      kernel: [2s, in, out].
      stride: s.
      padding: p, zeros before and after.

    Returns:
      [B, floor((W + 2p − 2s) / s) + 1, out]; floor(W / s) where p = s/2.

    Raises:
      ValueError: if the kernel does not span two strides.
    """
    _require_two_strides(kernel, stride)
    batch, samples, channels = x.shape
    frames = (samples + 2 * padding) // stride - 1
    after = (frames + 1) * stride - samples - padding  # negative where a tail is left over
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (padding, after, 0), (0, 0, 0)])
    rows = x.reshape(batch, frames + 1, stride * channels)
    first, second = kernel.reshape(2, stride * channels, -1)
    return rows[:, :-1] @ first + rows[:, 1:] @ second


def transposed_conv(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    """Computes y[n] = Σ x[t]·K[j] over t·s + j − p = n, for a kernel of two strides.

    With n + p = q·s + r, only x[q]·K[r] and x[q−1]·K[s+r] meet in y[n]: one matrix product onto
    (half, r, out), whose halves are added one frame apart and whose r is laid out as time.

    Args:
      x: [B, T, in].
      kernel: [2s, in, out], as the released ConvTranspose1d stores it (no flip).
      stride: s.
      padding: p, cropped from both ends.

    Returns:
      [B, (T + 1)·s − 2p, out]; T·s where p = s/2.

    Raises:
      ValueError: if the kernel does not span two strides.
    """
    _require_two_strides(kernel, stride)
    batch, frames, channels = x.shape
    halves = x @ kernel.transpose(1, 0, 2).reshape(channels, -1)  # [B, T, 2·s·out]
    current, carried = jnp.split(halves, 2, axis=-1)
    y = jnp.pad(current, ((0, 0), (0, 1), (0, 0))) + jnp.pad(carried, ((0, 0), (1, 0), (0, 0)))
    y = y.reshape(batch, (frames + 1) * stride, -1)
    return y[:, padding : y.shape[1] - padding]


def _require_two_strides(kernel: Array, stride: int) -> None:
    if kernel.shape[0] != 2 * stride:
        raise ValueError(
            f"the kernel has {kernel.shape[0]} taps; this form needs two strides, {2 * stride}."
        )
