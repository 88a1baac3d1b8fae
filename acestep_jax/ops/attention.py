"""Grouped-query attention behind one front door, in several implementations that agree.

  out = softmax(scale · q kᵀ + mask) v,   query head n reads key head n // (N / K)

| name        | computes                                         | memory in T | where             |
|-------------|--------------------------------------------------|-------------|-------------------|
| `reference` | every logit at once, in plain sight              | quadratic   | everywhere        |
| `banded`    | blocks along the band of a window, all together  | linear      | everywhere        |
| `chunked`   | a few query rows after another, with a window    | linear      | everywhere        |
|             | only against the keys their band reaches         |             |                   |
| `headwise`  | as chunked, one key head after another           | linear      | processors        |
| `cudnn`     | cuDNN's fused kernel, without a window           | linear      | NVIDIA, 16 bits   |
| `splash`    | the Pallas kernel shipped with JAX               | linear      | TPU, H = 128, 256 |

`auto` takes what is fastest on the attached device: a fused kernel where it covers the case, on a
processor the rows that fit its cache, else `portable`, which is the best of the first three for an
accelerator. These three lower for every platform and differentiate forwards and backwards. A
program exported for another platform than the attached one asks for `portable`, or for a kernel by
name.

Logits and softmax are float32 whatever the inputs. A query that sees no key at all averages all
keys alike, as the release's finite mask makes it do; see `ops/masks.py`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from acestep_jax.ops import backends, fused, masks
from acestep_jax.typing import Array

IMPLEMENTATIONS = (
    "auto",
    "portable",
    "reference",
    "banded",
    "chunked",
    "headwise",
    "cudnn",
    "splash",
    "splash_interpret",
)
"""Accepted names; `splash_interpret` runs the TPU kernel's program on any device, for tests."""

# Logits (B·N·T·S) beyond which full attention goes through query chunks on an accelerator: 64 MiB.
_DENSE_LOGITS = 1 << 24
# On a processor the logits of a chunk should stay in its caches: 4 MiB, and at most 64 rows where a
# window bounds the keys. Measured on one AVX-512 core, 8 heads of 64 channels, float32: 750 tokens
# full 26.8 ms at once and 8.9 ms in chunks, window 128 30.5 and 4.6 ms; 3,000 tokens 400 and 149,
# 571 and 18 ms.
_CACHED_LOGITS = 1 << 20
_WINDOWED_ROWS = 64
# Chunks of fewer rows spend their time fetching keys: then one key head is taken after another, and
# more rows of it. Measured as above, all heads at once and head by head: 1,500 tokens 45.6 and
# 36.8 ms, 3,000 tokens 226 and 152 ms.
_FEWEST_ROWS = 128


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None = None,
    key_mask: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
    implementation: str = "auto",
) -> Array:
    """Computes softmax(scale · q kᵀ) v over the visible keys.

    Args:
      q: queries [B, T, N, H].
      k: keys [B, S, K, H], N a multiple of K.
      v: values [B, S, K, H].
      window: visible distance, |i - j| <= window, for self-attention (S = T); None for all.
      key_mask: [B, S], False hides a key from every query; None shows all. [B, T, S] hides keys
        query by query, which the reference alone computes.
      causal: hide the keys behind each query.
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
    by_query = key_mask is not None and key_mask.ndim == 3
    name = _choose("reference" if by_query else implementation, q, k, window, causal)
    return _RUN[name](q, k, v, window=window, key_mask=key_mask, causal=causal, scale=scale)


def attend_cached(
    q: Array, keys: Array, values: Array, mask: Array, *, scale: float | None = None
) -> Array:
    """Attends to a decoding loop's buffers, which lie as the two matrix products read them.

    With the usual [B, S, K, H] a processor transposes all buffers at every token; measured with 8
    items of 320 slots: 150 us, and 44 us as here.

    Args:
      q: queries [B, T, N, H].
      keys: [B · K, H, S], the heads of an item together.
      values: [B · K, S, H].
      mask: [B, T, S], what each query sees.
      scale: factor on the logits; None for H^-1/2.

    Returns:
      [B, T, N, H] in the dtype of `q`.
    """
    batch, length, heads, width = q.shape
    scale = width**-0.5 if scale is None else scale
    kv_heads, slots = keys.shape[0] // batch, keys.shape[2]
    rows = (_group(q, kv_heads) * scale).reshape(batch * kv_heads, -1, width)
    logits = jnp.einsum("MRH,MHS->MRS", rows, keys, preferred_element_type=jnp.float32)
    logits = logits.reshape(batch, kv_heads, length, -1, slots)
    logits = jnp.where(mask[:, None, :, None, :], logits, jnp.finfo(jnp.float32).min)
    weights, total = _exponentials(logits)
    weights = weights.reshape(batch * kv_heads, -1, slots).astype(values.dtype)
    out = jnp.einsum("MRS,MSH->MRH", weights, values, preferred_element_type=jnp.float32)
    out = out.reshape(batch, kv_heads, length, heads // kv_heads, width) / total
    return _ungroup(out.astype(q.dtype))


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
    mask = _mask(q.shape[1], k.shape[1], window, key_mask, causal)
    logits = _logits(_group(q, k.shape[2]), k.swapaxes(1, 2), mask, scale)
    weights = jax.nn.softmax(logits, axis=-1).swapaxes(2, 3)
    return weights.reshape(q.shape[0], q.shape[2], q.shape[1], k.shape[1])


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


def _choose(name: str, q: Array, k: Array, window: int | None, causal: bool) -> str:
    """Resolves `auto` and `portable` by attached device, shapes and dtype."""
    if name not in ("auto", "portable"):
        return name
    length, num_keys = q.shape[1], k.shape[1]
    if length == 1:
        return "reference"
    if name == "auto":
        fast = _choose_for_device(backends.current(), q, k, window, causal)
        if fast is not None:
            return fast
    if window is not None and length > 4 * window:
        return "banded"
    return (
        "reference" if q.shape[0] * q.shape[2] * length * num_keys <= _DENSE_LOGITS else "chunked"
    )


def _choose_for_device(
    backend: str, q: Array, k: Array, window: int | None, causal: bool
) -> str | None:
    """Names what beats the portable choice on a backend, if anything does."""
    _, length, _, width = q.shape
    if backend == "cpu":
        rows = _chunk_rows(q, k, window)
        if rows >= length:
            return "reference"
        return "headwise" if window is None and rows < _FEWEST_ROWS else "chunked"
    if backend == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and window is None:
        return "cudnn" if width <= 128 else None
    # one TPU only: the kernel is not partitioned by itself; short lengths lose by padding to blocks
    alone = backend == "tpu" and jax.device_count() == 1
    if alone and width % fused.SPLASH_BLOCK == 0 and not causal:
        return "splash" if min(length, k.shape[1]) >= 4 * fused.SPLASH_BLOCK else None
    return None


# --- the portable implementations ---------------------------------------------------------------


def _group(q: Array, num_kv_heads: int) -> Array:
    """Splits query heads by the key head they share: [B, T, N, H] to [B, K, T, G, H]."""
    batch, length, heads, width = q.shape
    grouped = q.reshape(batch, length, num_kv_heads, heads // num_kv_heads, width)
    return grouped.transpose(0, 2, 1, 3, 4)


def _ungroup(out: Array) -> Array:
    """Joins the heads again: [B, K, T, G, H] to [B, T, N, H]."""
    batch, _, length, _, width = out.shape
    return out.transpose(0, 2, 1, 3, 4).reshape(batch, length, -1, width)


def _logits(q: Array, k: Array, mask: Array | None, scale: float) -> Array:
    """Multiplies scale · q kᵀ, masked entries at the finite minimum, float32 [B, K, T, G, S].

    Heads come first and rows of one key head stand together, (T, G) as one axis: a plain batch of
    matrix products, and no key is repeated for the query heads that share it.
    """
    logits = jnp.einsum("BKTGH,BKSH->BKTGS", q * scale, k, preferred_element_type=jnp.float32)
    if mask is None:
        return logits
    return jnp.where(mask[:, None, :, None, :], logits, jnp.finfo(jnp.float32).min)


def _attend(q: Array, k: Array, v: Array, mask: Array | None, scale: float) -> Array:
    """Computes softmax(logits) v, dividing after the product: one pass less over the logits.

    Args:
      q: [B, K, T, G, H].
      k, v: [B, K, S, H].
      mask: [B or 1, T or 1, S] or None.
      scale: factor on the logits.
    """
    weights, total = _exponentials(_logits(q, k, mask, scale))
    out = jnp.einsum(
        "BKTGS,BKSH->BKTGH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / total).astype(q.dtype)


def _exponentials(logits: Array) -> tuple[Array, Array]:
    """Gives exp(logits - their largest) and the sum over the last axis, which stays."""
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    return weights, weights.sum(axis=-1, keepdims=True)


def _mask(
    length: int,
    num_keys: int,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
) -> Array | None:
    """Joins all that hides keys, [B or 1, T or 1, S]; None if nothing does."""
    shape = masks.geometry(length, num_keys, window=window, is_causal=causal)
    if key_mask is None:
        return None if shape is None else shape[None]
    keys = (key_mask if key_mask.ndim == 3 else key_mask[:, None, :]).astype(bool)
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
) -> Array:
    mask = _mask(q.shape[1], k.shape[1], window, key_mask, causal)
    grouped = _group(q, k.shape[2])
    return _ungroup(_attend(grouped, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scale))


def _chunk_rows(q: Array, k: Array, window: int | None) -> int:
    """Picks the query rows a chunk: equal chunks whose logits stay within `_CACHED_LOGITS`."""
    batch, length, heads, _ = q.shape
    reach = k.shape[1] if window is None else min(k.shape[1], _WINDOWED_ROWS + 2 * window)
    most = max(16, _CACHED_LOGITS // (batch * heads * reach))
    most = most if window is None else min(most, _WINDOWED_ROWS)
    return -(-length // -(-length // most))


def _chunked(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
) -> Array:
    """Attends from a few query rows at a time; the gradient recomputes each chunk's logits."""
    length, num_keys, rows = q.shape[1], k.shape[1], _chunk_rows(q, k, window)
    count = -(-length // rows)
    margin = 0 if window is None else window
    reach = num_keys if window is None else rows + 2 * window
    # behind the last row come rows of zeros; before the first key and behind the last, hidden keys
    q_rows = _pad_axis(_group(q, k.shape[2]), 2, 0, count * rows - length)
    after = 0 if window is None else count * rows + margin - num_keys
    keys, values = (_pad_axis(x.swapaxes(1, 2), 2, margin, after) for x in (k, v))
    present = None if key_mask is None else _pad_axis(key_mask.astype(bool), 1, margin, after)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(start: Array) -> Array:
        first = 0 if window is None else start  # in `keys`; position start - margin

        def cut(x: Array, axis: int) -> Array:
            return x if window is None else jax.lax.dynamic_slice_in_dim(x, first, reach, axis)

        key = first - margin + jnp.arange(reach)[None, :]
        query = start + jnp.arange(rows)[:, None]
        seen = _visible(query, key, num_keys, window, causal)
        mask = None if seen is None else seen[None]
        if present is not None:
            here = cut(present, 1)[:, None, :]
            mask = here if mask is None else here & mask
        chunk = jax.lax.dynamic_slice_in_dim(q_rows, start, rows, 2)
        return _attend(chunk, cut(keys, 2), cut(values, 2), mask, scale)

    out = jax.lax.map(attend, jnp.arange(count) * rows)  # [count, B, K, rows, G, H]
    out = jnp.moveaxis(out, 0, 2)
    out = _ungroup(out.reshape(*out.shape[:2], count * rows, *out.shape[4:]))[:, :length]
    if key_mask is None or window is None:
        return out  # every query sees itself, or all keys were there to average
    sighted = masks.sees_a_key(key_mask, length, window=window, is_causal=causal)
    return fused.fill_blind_rows(out, v, sighted)


def _headwise(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | None,
    key_mask: Array | None,
    causal: bool,
    scale: float,
) -> Array:
    """Attends in chunks with one item's key head, and the queries that share it, at a time."""
    batch, length, _, width = q.shape
    num_kv_heads = k.shape[2]

    def apart(x: Array) -> Array:  # [B, K, ...] -> [B · K, 1, ...]
        return x.reshape(-1, 1, *x.shape[2:])

    queries = apart(_group(q, num_kv_heads))  # [B · K, 1, T, G, H]
    keys, values = (apart(x.swapaxes(1, 2))[:, :, :, None] for x in (k, v))
    present = None if key_mask is None else jnp.repeat(key_mask, num_kv_heads, axis=0)[:, None]

    def attend(head: tuple[Array, Array, Array, Array | None]) -> Array:
        *qkv, mask = head
        return _chunked(*qkv, window=window, key_mask=mask, causal=causal, scale=scale)

    out = jax.lax.map(attend, (queries, keys, values, present))
    return _ungroup(out.reshape(batch, num_kv_heads, length, -1, width))


def _visible(
    query: Array, key: Array, num_keys: int, window: int | None, causal: bool
) -> Array | None:
    """Compares positions of queries [T, 1] and keys [1, S]; None if all is seen."""
    if window is None:
        return key <= query if causal else None
    seen = (jnp.abs(query - key) <= window) & (key >= 0) & (key < num_keys)
    return seen & (key <= query) if causal else seen


def _pad_axis(x: Array, axis: int, before: int, after: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


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
    """Attends block by block to the previous, own and next block of keys, all blocks at once.

    With blocks as long as the window, a query's band lies within three of them.
    """
    if window is None:
        raise ValueError("implementation='banded' needs a window; full attention has no band.")
    batch, length, heads, width = q.shape
    block = max(window, 16)  # shorter blocks make matrix products too small to be worth it
    count = -(-length // block)
    tail = count * block - length

    def three_blocks(x: Array) -> Array:  # [B, S, ...] -> [B · count, 3 · block, ...]
        split = _pad_axis(x, 1, block, block + tail)
        split = split.reshape(x.shape[0], count + 2, block, *x.shape[2:])
        joined = jnp.concatenate([split[:, :-2], split[:, 1:-1], split[:, 2:]], axis=2)
        return joined.reshape(-1, 3 * block, *x.shape[2:])

    present = jnp.ones((1, length), bool) if key_mask is None else key_mask.astype(bool)
    distance = jnp.arange(block)[:, None] - (jnp.arange(3 * block)[None, :] - block)
    inside = (jnp.abs(distance) <= window) & ((distance >= 0) | (not causal))
    seen = three_blocks(present)[:, None, :] & inside[None]
    seen = jnp.tile(seen, (batch, 1, 1)) if key_mask is None else seen
    rows = _pad_axis(q, 1, 0, tail).reshape(-1, block, heads, width)
    keys, values = (three_blocks(x).swapaxes(1, 2) for x in (k, v))
    out = _ungroup(_attend(_group(rows, k.shape[2]), keys, values, seen, scale))
    out = out.reshape(batch, count * block, heads, width)[:, :length]
    if key_mask is None:
        return out  # every query sees itself
    sighted = seen.any(axis=-1).reshape(batch, count * block)[:, :length]
    return fused.fill_blind_rows(out, v, sighted)


_RUN: dict[str, Callable[..., Array]] = {
    "reference": _reference,
    "chunked": _chunked,
    "headwise": _headwise,
    "banded": _banded,
    "cudnn": fused.cudnn_attention,
    "splash": fused.splash_attention,
    "splash_interpret": functools.partial(fused.splash_attention, interpret=True),
}
