"""Repainting: what lies outside an edited range of frames stays what it was.

During the first steps the outside is put back on the straight path between the initial noise and
the source (`hold_outside`); at the end, latents and then samples are cross-faded (`crossfade`).
"""

import jax.numpy as jnp

from acestep_jax.ops import flow
from acestep_jax.typing import Array


def hold_outside(x: Array, edit_mask: Array, source: Array, noise: Array, t: Array) -> Array:
    """Puts frames outside the edited range on the path from noise to source at level t.

    Args:
      x: [B, T, C], the state at t.
      edit_mask: [B, T], true on edited frames.
      source: [B, T, C], what the song was.
      noise: [B, T, C], what sampling started from.
      t: scalar or [B].
    """
    return jnp.where(edit_mask[..., None], x, flow.interpolate(source, noise, t))


def crossfade(edited: Array, source: Array, edit_mask: Array, ramp: Array | int) -> Array:
    """Blends an edit [B, T, C] into its source; beyond the ramps the source stands untouched.

    Args:
      edited, source: [B, T, C]: latents, or samples with channels last.
      edit_mask: [B, T] bool, one range an item.
      ramp: length of the ramps; 0 cuts.
    """
    weight = ramp_mask(edit_mask, ramp)[..., None]
    mixed = weight * edited + (1 - weight) * source
    return jnp.where(weight == 0, source, mixed)  # bit for bit, also where `edited` is not finite


def ramp_mask(edit_mask: Array, ramp: Array | int) -> Array:
    """Lays linear ramps around each item's range, outside of it: [B, T] float32 in [0, 1].

    A ramp has min(ramp, room) values, evenly between 0 and 1 and without either; a range that
    reaches an end of the item has none there. Source: the release's repaint cross-fade.
    """
    frames = edit_mask.shape[1]
    first = jnp.argmax(edit_mask, axis=1, keepdims=True)
    last = frames - 1 - jnp.argmax(edit_mask[:, ::-1], axis=1, keepdims=True)
    place = jnp.arange(frames)[None]
    rising = _rise(first - place, jnp.minimum(ramp, first))
    falling = _rise(place - last, jnp.minimum(ramp, frames - 1 - last))
    ramps = jnp.where(place < first, rising, falling)
    return jnp.where(edit_mask, 1.0, jnp.where(jnp.any(edit_mask, 1, keepdims=True), ramps, 0.0))


def _rise(distance: Array, length: Array) -> Array:
    """Values of a ramp of `length` frames at `distance` 1..length from the range, 0 beyond."""
    value = 1 - distance / (length + 1)
    return jnp.where((distance >= 1) & (distance <= length), value, 0.0).astype(jnp.float32)
