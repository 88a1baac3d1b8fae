"""Attention taught by times that are known: which lyric token a patch of music should look at.

A token i is sung in the frames [first, end), and in every patch j of them. Where something is sung,
the target shares a patch evenly among its tokens, and attention A is pulled towards it:

    q_ij = 1 / n_j  for the n_j tokens sung in patch j                                          (1)
    loss = mean_j sum_i q_ij (log q_ij - log A_ij)   over patches with n_j > 0                  (2)

Lyrics that belong to another song should not be looked at, in any patch:

    avoidance = mean_j -log(1 - sum_i A_ij)   over songs with other lyrics                      (3)

In (2) what A spends on other tokens, on the caption or on the timbre costs as much as what it
spends on wrong words. Patches in which nobody sings, or nobody knows what, are left alone.

Source: supervised attention, Liu et al. 2016, arXiv:1609.04186, and Mi et al. 2016,
arXiv:1608.00112, who teach a translator by word alignments; with times of words it is ours.
"""

import jax.numpy as jnp

from acestep_jax.ops import losses
from acestep_jax.typing import Array

_LEAST = 1e-6
"""Added to attention within the logarithm: a patch far off costs at most 14 nats."""


def target(frames: Array, num_patches: int, patch_size: int) -> Array:
    """Shares every patch among the tokens sung in it, by (1).

    Args:
      frames: int32 [B, N, 2], the frames [first, end) of every token; negative where unknown.
      num_patches: P.
      patch_size: frames a patch.

    Returns:
      float32 [B, N, P]; a patch sums to 1, or to 0 where nothing is known to be sung.
    """
    first, end = frames[..., 0, None], frames[..., 1, None]
    start = patch_size * jnp.arange(num_patches)[None, None]
    sung = (first >= 0) & (first < start + patch_size) & (end > start)
    return sung / jnp.maximum(jnp.sum(sung, axis=1, keepdims=True), 1)


def divergence(maps: Array, wanted: Array) -> Array:
    """Evaluates (2), the mean over heads.

    Args:
      maps: attention [B, H, N, P] that tokens get from patches; a patch may spend on others, too.
      wanted: [B, N, P] from `target`.

    Returns:
      A scalar, float32, nats a patch; 0 if nothing is known to be sung.
    """
    wanted = wanted[:, None]
    apart = jnp.log(jnp.maximum(wanted, _LEAST)) - jnp.log(maps.astype(jnp.float32) + _LEAST)
    each = jnp.sum(wanted * apart, axis=2)
    known = jnp.broadcast_to(jnp.sum(wanted, axis=2) > 0, each.shape)
    return losses.masked_mean(each, known)


def avoidance(maps: Array, strange: Array) -> Array:
    """Evaluates (3), the mean over heads.

    Args:
      maps: attention [B, H, N, P] that the tokens of a lyric prompt get.
      strange: bool [B], songs with the lyrics of others.

    Returns:
      A scalar, float32, nats a patch; 0 without such songs.
    """
    elsewhere = 1.0 - jnp.sum(maps.astype(jnp.float32), axis=2)
    each = -jnp.log(jnp.maximum(elsewhere, _LEAST))
    return losses.masked_mean(each, jnp.broadcast_to(strange[:, None, None], each.shape))
