"""Several sequences in one row: each sees itself alone, and counts its positions from 0.

Rows carry segment numbers [B, T]: 1, 2, ... for the sequences in order, 0 for padding.
"""

import jax
import jax.numpy as jnp

from acestep_jax.typing import Array


def segment_mask(segments: Array) -> Array:
    """Shows each token the tokens of its own segment, [B, T, T]; order is the network's matter."""
    same = segments[:, :, None] == segments[:, None, :]
    return same & (segments > 0)[:, None, :]


def segment_positions(segments: Array) -> Array:
    """Numbers the tokens of every segment from 0, [B, T]."""
    places = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    before = jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    first = jnp.where(segments != before, places, 0)
    return places - jax.lax.cummax(first, axis=1)
