"""Distances between samples: of pairs that began from the same noise, and of two laws.

None of these is a training loss here, so they can judge what was trained.
"""

import jax
import jax.numpy as jnp

from acestep_jax.typing import Array


def relative_error(samples: Array, reference: Array) -> Array:
    """Measures pairs [B, T, C]: mean (x - y)^2 over the variance of y's channels, [B].

    Two independent samples of one law are about 2 apart: twice the variance.
    """
    variance = jnp.mean(jnp.var(reference, axis=(0, 1)))
    return jnp.mean((samples - reference) ** 2, axis=(1, 2)) / variance


def windows(latents: Array, length: int) -> Array:
    """Cuts [B, T, C] into windows of `length` frames: [B T // length, length C]."""
    batch, frames, channels = latents.shape
    whole = frames // length
    return latents[:, : whole * length].reshape(batch * whole, length * channels)


def energy_distance(x: Array, y: Array) -> Array:
    """Estimates 2 E|X - Y| - E|X - X'| - E|Y - Y'| without bias from samples [n, D] and [m, D].

    Zero if and only if the laws are equal; the estimate may be slightly negative then.

    Source: Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances".
    """
    cross = jnp.mean(_pairwise(x, y))
    return 2 * cross - _within(x) - _within(y)


def _within(x: Array) -> Array:
    count = x.shape[0]
    return jnp.sum(_pairwise(x, x)) / (count * (count - 1))  # a point and itself do not count


def _pairwise(x: Array, y: Array) -> Array:
    """Euclidean distances [n, m]; row by row, as differences of squares lose small distances."""
    return jax.lax.map(lambda row: jnp.sqrt(jnp.sum((y - row[None]) ** 2, axis=-1)), x)


def spread(latents: Array) -> Array:
    """Averages the distance between different items, [B, ...] -> scalar: how diverse they are."""
    flat = latents.reshape(latents.shape[0], -1)
    return _within(flat) / jnp.sqrt(float(flat.shape[1]))
