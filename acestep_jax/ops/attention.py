"""Grouped-query attention behind one front door, in several implementations that agree.

  out = softmax(scale · q kᵀ + mask) v,   query head n reads key head n // (N / K)

| name        | computes                                     | memory in T | where               |
|-------------|----------------------------------------------|-------------|---------------------|
| `reference` | every logit at once, in plain sight          | quadratic   | everywhere          |
| `banded`    | blocks along the band of a sliding window    | linear      | everywhere          |
| `chunked`   | some query rows at a time, recomputed in the gradient | linear | everywhere      |
| `cudnn`     | cuDNN's fused kernel, no sliding window      | linear      | NVIDIA, 16-bit      |
| `splash`    | the Pallas kernel shipped with JAX           | linear      | TPU, H a multiple of 128 |

`auto` takes a fused kernel where the attached accelerator has one that covers the case, else
`portable`: the best of the first three, which lower for every platform and differentiate forwards
and backwards. A program exported for another platform than the attached one asks for `portable` or
for a kernel by name.

Logits and softmax are float32 whatever the inputs. A query that sees no key at all averages all
keys alike, as the release's finite mask makes it do; see `ops/masks.py`.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from acestep_jax.ops import masks

Array = jax.Array

IMPLEMENTATIONS = (
    "auto", "portable", "reference", "banded", "chunked", "cudnn", "splash", "splash_interpret",
)  # fmt: skip
"""Accepted names; `splash_interpret` runs the TPU kernel's program on any device, for tests."""

# Logits (B·N·T·S) beyond which full attention goes through query chunks. 2^22 float32 logits are
# 16 MiB: about what stays in the caches of a processor, and little on an accelerator.
_DENSE_LOGITS = 1 << 22
_SPLASH_BLOCK = 128  # lanes of a TPU register: the kernel's lengths are multiples of it


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None = None,
    key_mask: Array | None = None,
    causal: bool = False,
    query_offset: int | Array = 0,
    scale: float | None = None,
    implementation: str = "auto",
) -> Array:
    """Computes softmax(scale · q kᵀ) v over the visible keys.

    Args:
      q: queries [B, T, N, H].
      k: keys [B, S, K, H], N a multiple of K.
      v: values [B, S, K, H].
      window: visible distance, |i - j| <= window, for self-attention (S = T); None for all.
      key_mask: [B, S], False hides a key from every query; None shows all.
      causal: hide the keys behind each query.
      query_offset: with `causal`, the key position of the first query (a cache's fill).
      scale: factor on the logits; None for H^-1/2.
      implementation: one of `IMPLEMENTATIONS`.

    Returns:
      [B, T, N, H] in the dtype of `q`.

    Raises:
      ValueError: if heads do not divide, a window meets S != T, or the named implementation is
        unknown or does not cover the case.
    """
    _check(q, k, window, implementation)
    if window is not None and window >= k.shape[1] - 1:
        window = None  # the band covers everything
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    plain = isinstance(query_offset, int) and query_offset == 0
    name = _choose(implementation, q, k, window, causal, plain)
    run = _RUN[name]
    if name not in ("reference", "chunked") and not plain:
        raise ValueError(f"implementation={name!r} takes no query_offset; use 'reference'.")
    arguments = dict(window=window, key_mask=key_mask, causal=causal, scale=scale)
    if name in ("reference", "chunked"):
        arguments["query_offset"] = query_offset
    return run(q, k, v, **arguments)


def probabilities(
    q: Array,
    k: Array,
    *,
    window: int | None = None,
    key_mask: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Array:
    """Computes the attention weights softmax(scale · q kᵀ) themselves.

    Arguments as for `attention`; pass only the heads you want to see.

    Returns:
      float32 [B, N, T, S]; rows sum to one over S.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = _mask(q.shape[1], k.shape[1], window, key_mask, causal, 0)
    logits = _logits(q, k, mask, scale)  # [B, K, T, G, S]
    weights = jax.nn.softmax(logits, axis=-1)
    batch, _, length, _, num_keys = weights.shape
    return weights.swapaxes(2, 3).reshape(batch, -1, length, num_keys)


def _check(q: Array, k: Array, window: int | None, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention {implementation!r} is unknown; use one of {IMPLEMENTATIONS}.")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads do not divide among {k.shape[2]} key heads.")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"queries {q.shape} and keys {k.shape} differ in batch or head width.")
    if window is not None and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"a sliding window needs as many queries as keys, got {q.shape[1]} and {k.shape[1]}."
        )


def _choose(name: str, q: Array, k: Array, window: int | None, causal: bool, plain: bool) -> str:
    """Resolves `auto` and `portable` by attached device, shapes and dtype."""
    if name == "auto":
        backend = jax.default_backend()
        half = q.dtype in (jnp.bfloat16, jnp.float16)
        if backend == "gpu" and half and plain and window is None and q.shape[-1] <= 128:
            return "cudnn"
        if backend == "tpu" and plain and q.shape[-1] % _SPLASH_BLOCK == 0:
            # below four blocks, padding to the kernel's block costs more than it saves
            if min(q.shape[1], k.shape[1]) >= 4 * _SPLASH_BLOCK and not causal:
                return "splash"
    if name not in ("auto", "portable"):
        return name
    if window is not None and plain and q.shape[1] > 4 * window:
        return "banded"
    logits = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1]
    return "reference" if logits <= _DENSE_LOGITS or q.shape[1] == 1 else "chunked"


# --- portable implementations -------------------------------------------------------------------


def _logits(q: Array, k: Array, mask: Array | None, scale: float) -> Array:
    """scale · q kᵀ with masked entries at the finite minimum, float32 [B, K, T, G, S].

    Rows stand in the order the product leaves them in (T before G), so that nothing as large as the
    logits is ever transposed; keys are not repeated for the query heads that share them.
    """
    batch, length, heads, width = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], width)
    logits = jnp.einsum("BTKGH,BSKH->BKTGS", grouped * scale, k, preferred_element_type=jnp.float32)
    if mask is None:
        return logits
    return jnp.where(mask[:, None, :, None, :], logits, jnp.finfo(jnp.float32).min)


def _attend(q: Array, k: Array, v: Array, mask: Array | None, scale: float) -> Array:
    """softmax(logits) v, dividing after the product: one pass less over the logits."""
    logits = _logits(q, k, mask, scale)
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = weights.sum(axis=-1)  # [B, K, T, G]
    out = jnp.einsum(
        "BKTGS,BSKH->BKTGH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    out = (out / total[..., None]).astype(q.dtype)
    return out.swapaxes(1, 2).reshape(q.shape)


def _mask(
    length: int,
    num_keys: int,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    query_offset: int | Array,
) -> Array | None:
    """All that hides keys, [B or 1, T or 1, S]; None if nothing does."""
    shape = masks.geometry(length, num_keys, window=window, is_causal=causal, offset=query_offset)
    if key_mask is None:
        return None if shape is None else shape[None]
    keys = key_mask[:, None, :].astype(bool)
    return keys if shape is None else keys & shape[None]


def _reference(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
    query_offset: int | Array = 0,
) -> Array:
    mask = _mask(q.shape[1], k.shape[1], window, key_mask, causal, query_offset)
    return _attend(q, k, v, mask, scale)


def _chunked(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
    query_offset: int | Array = 0,
) -> Array:
    """Attends from a few query rows at a time; the gradient recomputes each chunk's logits."""
    batch, length, heads, width = q.shape
    size = _chunk_size(batch * heads, length, k.shape[1])
    count = -(-length // size)
    padded = jnp.pad(q, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
    chunks = padded.reshape(batch, count, size, heads, width).swapaxes(0, 1)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(chunk: tuple[Array, Array]) -> Array:
        rows, start = chunk
        mask = None if key_mask is None else key_mask[:, None, :].astype(bool)
        if causal or window is not None:
            query = start + jnp.arange(size)[:, None]
            key = jnp.arange(k.shape[1])[None, :]
            shape = jnp.ones((size, k.shape[1]), bool)
            shape = shape if window is None else jnp.abs(query - key) <= window
            shape = shape & (key <= query + query_offset) if causal else shape
            mask = shape[None] if mask is None else mask & shape[None]
        return _attend(rows, k, v, mask, scale)

    out = jax.lax.map(attend, (chunks, jnp.arange(count) * size))
    return out.swapaxes(0, 1).reshape(batch, count * size, heads, width)[:, :length]


def _chunk_size(rows_per_query: int, length: int, num_keys: int) -> int:
    """Query rows whose logits fill `_DENSE_LOGITS`, in equal chunks of at least 16 rows."""
    most = max(16, _DENSE_LOGITS // (rows_per_query * num_keys))
    return -(-length // -(-length // most))


def _banded(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
) -> Array:
    """Attends block by block to the previous, own and next block of keys.

    With blocks as long as the window, a query's band lies within three of them.
    """
    if window is None:
        raise ValueError("implementation='banded' needs a window; full attention has no band.")
    batch, length, heads, width = q.shape
    block = max(window, 16)  # shorter blocks make matrix products too small to be worth it
    count = -(-length // block)
    tail = count * block - length

    def blocks_of(x: Array) -> Array:  # [B, S, ...] -> [B · count, 3 · block, ...]
        padding = ((0, 0), (block, block + tail)) + ((0, 0),) * (x.ndim - 2)
        split = jnp.pad(x, padding).reshape(x.shape[0], count + 2, block, *x.shape[2:])
        joined = jnp.concatenate([split[:, :-2], split[:, 1:-1], split[:, 2:]], axis=2)
        return joined.reshape(-1, 3 * block, *x.shape[2:])

    present = jnp.ones((1, length), bool) if key_mask is None else key_mask.astype(bool)
    seen = blocks_of(present)[:, None, :] & _band_of_block(block, window, causal)[None]
    if key_mask is None:
        seen = jnp.tile(seen, (batch, 1, 1))
    rows = jnp.pad(q, ((0, 0), (0, tail), (0, 0), (0, 0))).reshape(-1, block, heads, width)
    out = _attend(rows, blocks_of(k), blocks_of(v), seen, scale)
    out = out.reshape(batch, count * block, heads, width)[:, :length]
    if key_mask is None:
        return out  # every query sees itself
    sighted = seen.any(axis=-1).reshape(batch, count * block)[:, :length]
    return _fill_blind_rows(out, v, sighted)


def _band_of_block(block: int, window: int, causal: bool) -> Array:
    """The band between a block of queries and its three blocks of keys, [block, 3 · block]."""
    distance = jnp.arange(block)[:, None] - (jnp.arange(3 * block)[None, :] - block)
    seen = jnp.abs(distance) <= window
    return seen & (distance >= 0) if causal else seen


def _fill_blind_rows(out: Array, v: Array, sighted: Array) -> Array:
    """Gives queries that see no key the average of all values, as the finite mask would.

    Args:
      out: [B, T, N, H].
      v: [B, S, K, H].
      sighted: [B, T], whether the query sees any key.
    """
    mean = jnp.mean(v.astype(jnp.float32), axis=1, keepdims=True).astype(out.dtype)
    mean = jnp.repeat(mean, out.shape[2] // v.shape[2], axis=2)
    return jnp.where(sighted[..., None, None], out, mean)


# --- fused kernels ------------------------------------------------------------------------------


def _cudnn(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
) -> Array:
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
    return _fill_blind_rows(out, v, masks.sees_a_key(key_mask, q.shape[1], is_causal=causal))


def _splash(
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
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, num_keys = q.shape[1], k.shape[1]
    q_padded, k_padded, v_padded = (_pad_to_blocks(x) for x in (q * scale, k, v))
    shape = (q_padded.shape[1], k_padded.shape[1])
    if window is not None:
        mask = splash.LocalMask(shape, (window, 0 if causal else window), offset=0)
    else:
        mask = splash.CausalMask(shape) if causal else splash.FullMask(shape)
    sizes = {name: _SPLASH_BLOCK for name in _SPLASH_BLOCK_FIELDS}
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * q.shape[2]),
        block_sizes=splash.BlockSizes(**sizes),
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
    return _fill_blind_rows(out, v, sighted)


_SPLASH_BLOCK_FIELDS = (
    "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
    "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
)  # fmt: skip


def _pad_to_blocks(x: Array) -> Array:
    target = math.ceil(x.shape[1] / _SPLASH_BLOCK) * _SPLASH_BLOCK
    return jnp.pad(x, ((0, 0), (0, target - x.shape[1]), (0, 0), (0, 0)))


_RUN: dict[str, Callable[..., Array]] = {
    "reference": _reference,
    "chunked": _chunked,
    "banded": _banded,
    "cudnn": _cudnn,
    "splash": _splash,
    "splash_interpret": functools.partial(_splash, interpret=True),
}
