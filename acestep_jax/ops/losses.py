"""Errors per frame and per example, and the means that turn them into one number.

Functions here keep the batch axis: weights, masks and the final mean belong to the caller.
"""

import jax.numpy as jnp

from acestep_jax.typing import Array


def squared_error(predicted: Array, target: Array, weights: Array | None = None) -> Array:
    """Averages (predicted - target)^2 over channels: [B, T, C] -> [B, T], in float32.

    Args:
      predicted, target: of one shape.
      weights: [C], of mean 1, a weight for every channel; None weighs all alike.
    """
    difference = predicted.astype(jnp.promote_types(predicted.dtype, jnp.float32)) - target
    if weights is None:
        return jnp.mean(difference**2, axis=-1)
    return jnp.mean(weights[None, None] * difference**2, axis=-1)


def velocity_loss(predicted: Array, target: Array, frame_mask: Array | None = None) -> Array:
    """Averages the squared velocity error of each example over frames and channels: -> [B].

    Args:
      predicted: [B, T, C].
      target: [B, T, C].
      frame_mask: [B, T], 1 on frames that count. None counts padding too, as the release does.
    """
    return masked_mean(squared_error(predicted, target), frame_mask, axis=-1)


def masked_mean(
    values: Array, mask: Array | None = None, axis: int | tuple[int, ...] | None = None
) -> Array:
    """Averages `values` where `mask` is 1: sum(mask values) / sum(mask).

    Over a sharded batch both sums run over all devices, so the result is the mean over the global
    batch, not a mean of means. A slice without any counted entry gives 0.

    Args:
      values: any shape.
      mask: the same shape, or None to count all.
      axis: axes to average; None averages all.
    """
    if mask is None:
        return jnp.mean(values, axis=axis)
    mask = mask.astype(values.dtype)
    return jnp.sum(mask * values, axis=axis) / jnp.maximum(jnp.sum(mask, axis=axis), 1.0)
