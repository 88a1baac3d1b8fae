"""What the release may do to a velocity or a state beyond solving the ODE; all off by default."""

from typing import Literal, TypeAlias

import jax.numpy as jnp

from acestep_jax.typing import Array

Wavelet: TypeAlias = Literal["none", "low", "high", "double", "pixel"]
"""Which part of a step `wavelet_correction` amplifies."""


def limit_velocity(
    velocity: Array, x_t: Array, limit: Array | float, frame_mask: Array | None = None
) -> Array:
    """Shortens an item's velocity to `limit` times the length of its state.

    v min(1, limit |x| / |v|), lengths over frames and channels. Source: the release's
    `velocity_norm_threshold`.
    """
    length, bound = (_item_length(x, frame_mask) for x in (velocity, x_t))
    return velocity * jnp.minimum(1.0, limit * bound / (length + 1e-10))


def wavelet_correction(
    x_next: Array,
    data: Array,
    t: Array,
    *,
    mode: Wavelet,
    low: Array | float,
    high: Array | float,
    frame_mask: Array | None = None,
) -> Array:
    """Pushes a stepped state away from the step's data estimate, in one band of time or in both.

    One level of the Haar transform over time splits a signal into the mean of each pair of frames
    and the rest. With e = x_next - data: x_next + t low mean(e) + (1 - t) high rest(e).

    Args:
      x_next: [B, T, C], after the step.
      data: [B, T, C], the step's data estimate, from the state before it.
      t: the level before the step, scalar.
      mode: "low", "high", both ("double"), or "pixel": x_next + low e, whatever t.
      low, high: strengths.
      frame_mask: [B, T]; an odd last frame is paired with zero, as the release does.

    Source: the release's "differential correction in wavelet space" (`dcw_*`).
    """
    error = x_next - data
    if frame_mask is not None:
        error = jnp.where(frame_mask[..., None], error, 0.0)
    if mode == "pixel":
        return x_next + low * error
    mean = _pair_means(error)
    change = jnp.zeros_like(error)
    if mode in ("low", "double"):
        change += t * low * mean
    if mode in ("high", "double"):
        change += (1 - t) * high * (error - mean)
    return x_next + change


def _pair_means(x: Array) -> Array:
    """Replaces frames 2i and 2i + 1 by their mean; an odd last frame is halved."""
    batch, frames, channels = x.shape
    even = jnp.pad(x, ((0, 0), (0, frames % 2), (0, 0)))
    pairs = jnp.mean(even.reshape(batch, -1, 2, channels), axis=2)
    return jnp.repeat(pairs, 2, axis=1)[:, :frames]


def _item_length(x: Array, frame_mask: Array | None) -> Array:
    if frame_mask is not None:
        x = jnp.where(frame_mask[..., None], x, 0.0)
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2), keepdims=True))


def mix_noise(noise: Array, other: Array, share: Array | float) -> Array:
    """Turns noise towards other noise, keeping its variance: cos(share pi/2) n + sin(.) n2.

    Share 0 keeps the take, 1 makes another. Source: the release's `retake_variance`.
    """
    angle = share * jnp.pi / 2
    return jnp.cos(angle) * noise + jnp.sin(angle) * other
