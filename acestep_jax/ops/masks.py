"""Which key may be seen from which query: boolean masks, True where attention may look.

A key mask says which keys hold something at all (padding is False). Geometry, a causal order or a
band, comes on top. Masks are applied with the most negative finite number, never with -inf: a query
that sees no key at all then averages over *all* keys alike, as in the released model.
"""

import jax.numpy as jnp

from acestep_jax.typing import Array


def band(num_queries: int, num_keys: int, window: int) -> Array:
    """Draws the sliding window |i - j| <= window, [T, S].

    The release counts both ends: an inner query sees 2 · window + 1 keys.
    """
    distance = jnp.arange(num_queries)[:, None] - jnp.arange(num_keys)[None, :]
    return jnp.abs(distance) <= window


def causal(num_queries: int, num_keys: int, offset: int | Array = 0) -> Array:
    """Draws j <= i + offset, [T, S]; `offset` is the key position of the first query."""
    return jnp.arange(num_keys)[None, :] <= jnp.arange(num_queries)[:, None] + offset


def geometry(
    num_queries: int,
    num_keys: int,
    *,
    window: int | None = None,
    is_causal: bool = False,
) -> Array | None:
    """Combines band and causal order, [T, S]; None when every key may be seen."""
    mask = None if window is None else band(num_queries, num_keys, window)
    if not is_causal:
        return mask
    order = causal(num_queries, num_keys)
    return order if mask is None else mask & order


def sees_a_key(
    key_mask: Array, num_queries: int, *, window: int | None = None, is_causal: bool = False
) -> Array:
    """Tells which queries have a visible key, in linear time.

    Args:
      key_mask: [B, S].
      num_queries: T; equal to S where there is a window or a causal order.
      window: half-width of the band, or None.
      is_causal: hide keys after the query.

    Returns:
      Booleans [B, T].
    """
    num_keys = key_mask.shape[-1]
    counts = jnp.cumsum(key_mask.astype(jnp.int32), axis=-1)
    counts = jnp.pad(counts, ((0, 0), (1, 0)))  # counts[j] = visible keys before j
    query = jnp.arange(num_queries)
    start = jnp.zeros_like(query) if window is None else jnp.maximum(query - window, 0)
    stop = jnp.full_like(query, num_keys)
    if window is not None:
        stop = jnp.minimum(query + window + 1, num_keys)
    if is_causal:
        stop = jnp.minimum(stop, query + 1)
    return counts[:, stop] > counts[:, start]


def patches(frame_mask: Array, patch_size: int = 2) -> Array:
    """Marks the patches that hold a real frame: [B, T] at 25 Hz to [B, ceil(T / 2)]."""
    padding = -frame_mask.shape[-1] % patch_size
    padded = jnp.pad(frame_mask.astype(bool), ((0, 0), (0, padding)))
    return padded.reshape(padded.shape[0], -1, patch_size).any(axis=-1)


def positions(mask: Array) -> Array:
    """Numbers the real tokens 0, 1, ... wherever the padding is, int32 [B, T].

    Padding before the first token gets position 0; padding behind the last repeats its number.
    """
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)
