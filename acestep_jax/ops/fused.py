"""Attention kernels kept by others: cuDNN's for NVIDIA, the Pallas one for TPU.

Both are called through JAX itself. What they do not cover is refused here and covered by the
portable forms of `ops/attention.py`.
"""

import math

import jax
import jax.numpy as jnp

from acestep_jax.ops import masks
from acestep_jax.typing import Array

SPLASH_BLOCK = 128
"""Lanes of a TPU register: the lengths and head widths of the Pallas kernel are multiples of it."""

_SPLASH_BLOCK_FIELDS = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)


def cudnn_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
) -> Array:
    """Attends by `jax.nn.dot_product_attention` with cuDNN; q, k, v in 16 bits, on a GPU.

    Raises:
      ValueError: if a window is asked for; cuDNN's opens to the left only.
    """
    if window is not None:
        raise ValueError("cuDNN has no window open to both sides; use 'banded' or 'auto'.")
    mask = None
    if key_mask is not None:  # a mask becomes a bias, which the kernel wants at full length
        mask = key_mask[:, None, None, :].astype(bool)
        mask = jnp.broadcast_to(mask, (q.shape[0], 1, q.shape[1], k.shape[1]))
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=scale, is_causal=causal, implementation="cudnn"
    )
    if key_mask is None:
        return out
    return fill_blind_rows(out, v, masks.sees_a_key(key_mask, q.shape[1], is_causal=causal))


def splash_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
    interpret: bool = False,
) -> Array:
    """Attends by the Pallas kernel for TPU, which skips the blocks outside band and order.

    Padding is a segment of its own. `interpret` runs the kernel's program on any device, slowly.
    On several devices the kernel must be called inside `jax.shard_map`: it is not partitioned.
    """
    # not at module level: Pallas for TPU takes a second to import
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, num_keys = q.shape[1], k.shape[1]
    q_padded, k_padded, v_padded = (_pad_to_blocks(x) for x in (q * scale, k, v))
    shape = (q_padded.shape[1], k_padded.shape[1])
    if window is not None:
        mask = splash.LocalMask(shape, (window, 0 if causal else window), offset=0)
    else:
        mask = splash.CausalMask(shape) if causal else splash.FullMask(shape)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * q.shape[2]),
        block_sizes=splash.BlockSizes(**dict.fromkeys(_SPLASH_BLOCK_FIELDS, SPLASH_BLOCK)),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    present = jnp.ones(k.shape[:2], bool) if key_mask is None else key_mask.astype(bool)
    present = jnp.pad(present, ((0, 0), (0, shape[1] - num_keys))).astype(jnp.int32)
    everyone = jnp.ones((q.shape[0], shape[0]), jnp.int32)  # keys of segment 0 are seen by none
    heads_first = (x.swapaxes(1, 2) for x in (q_padded, k_padded, v_padded))
    out = jax.vmap(kernel)(*heads_first, splash.SegmentIds(everyone, present))
    out = out.swapaxes(1, 2)[:, :length].astype(q.dtype)
    if key_mask is None:
        return out
    sighted = masks.sees_a_key(key_mask, length, window=window, is_causal=causal)
    return fill_blind_rows(out, v, sighted)


def _pad_to_blocks(x: Array) -> Array:
    target = math.ceil(x.shape[1] / SPLASH_BLOCK) * SPLASH_BLOCK
    return jnp.pad(x, ((0, 0), (0, target - x.shape[1]), (0, 0), (0, 0)))


def fill_blind_rows(out: Array, v: Array, sighted: Array) -> Array:
    """Gives queries that see no key the average of all values, as a finite mask would.

    Args:
      out: [B, T, N, H].
      v: [B, S, K, H].
      sighted: [B, T], whether the query sees any key.
    """
    mean = jnp.mean(v.astype(jnp.float32), axis=1, keepdims=True).astype(out.dtype)
    mean = jnp.repeat(mean, out.shape[2] // v.shape[2], axis=2)
    return jnp.where(sighted[..., None, None], out, mean)
