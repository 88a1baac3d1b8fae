"""Attention as the networks use it: projections, per-head norms, rotation, and the product.

The same module serves bidirectional, causal and cross attention. Queries and keys are normalised
head by head after the split and before the rotation; cross-attention has no rotation.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from acestep_jax.nn.config import TransformerSizes
from acestep_jax.nn.layers import GatedMLP, Linear, RMSNorm
from acestep_jax.ops import rope
from acestep_jax.ops.attention import attend_cached, attention
from acestep_jax.typing import Array


class KeyValue(NamedTuple):
    """Projected keys and values, both [B, S, K, H]; stacked forms add a leading layer axis."""

    k: Array
    v: Array


class Attention(nn.Module):
    """Projects, attends and projects back: softmax(q kᵀ / sqrt(H)) v.

    Attributes:
      sizes: heads and widths.
      window: visible distance |i - j| <= window, or None.
      causal: hide later keys.
      eps: of the per-head norms.
      dtype: of the products.
      implementation: see `ops.attention.IMPLEMENTATIONS`.
    """

    sizes: TransformerSizes
    window: int | None = None
    causal: bool = False
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        sizes = self.sizes
        self.q_proj = Linear(sizes.num_heads * sizes.head_dim, dtype=self.dtype)
        self.k_proj = Linear(sizes.num_kv_heads * sizes.head_dim, dtype=self.dtype)
        self.v_proj = Linear(sizes.num_kv_heads * sizes.head_dim, dtype=self.dtype)
        self.o_proj = Linear(sizes.width, dtype=self.dtype)
        self.q_norm = RMSNorm(self.eps)
        self.k_norm = RMSNorm(self.eps)

    def queries(self, x: Array, rotation: rope.Rotation | None = None) -> Array:
        """Projects [B, T, D] to normalised, rotated queries [B, T, N, H]."""
        q = self.q_norm(self._split(self.q_proj(x)))
        return q if rotation is None else rope.rotate(q, rotation)

    def keys_values(self, x: Array, rotation: rope.Rotation | None = None) -> KeyValue:
        """Projects [B, S, D] to normalised, rotated keys and values [B, S, K, H]."""
        k = self.k_norm(self._split(self.k_proj(x)))
        k = k if rotation is None else rope.rotate(k, rotation)
        return KeyValue(k, self._split(self.v_proj(x)))

    def attend(self, q: Array, kv: KeyValue, key_mask: Array | None = None) -> Array:
        """Attends with ready queries, keys and values; returns [B, T, D]."""
        out = attention(
            q,
            kv.k,
            kv.v,
            window=self.window,
            key_mask=key_mask,
            causal=self.causal,
            implementation=self.implementation,
        )
        return self._join(out)

    def attend_cached(self, q: Array, keys: Array, values: Array, mask: Array) -> Array:
        """Attends to a decoding loop's buffers (`ops.attention.attend_cached`): [B, T, D]."""
        return self._join(attend_cached(q, keys, values, mask))

    def __call__(
        self, x: Array, rotation: rope.Rotation | None = None, key_mask: Array | None = None
    ) -> Array:
        """Attends within `x` [B, T, D]."""
        return self.attend(self.queries(x, rotation), self.keys_values(x, rotation), key_mask)

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], -1, self.sizes.head_dim)

    def _join(self, out: Array) -> Array:
        return self.o_proj(out.reshape(*out.shape[:2], -1))


class TransformerLayer(nn.Module):
    """A plain pre-norm layer: h += attention(norm(h)); h += mlp(norm(h)).

    The layer of Qwen3 (causal) and of the lyric, timbre, pooling and detokenizing stacks.
    """

    sizes: TransformerSizes
    window: int | None = None
    causal: bool = False
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        self.input_layernorm = RMSNorm(self.eps)
        self.self_attn = Attention(
            self.sizes, self.window, self.causal, self.eps, self.dtype, self.implementation
        )
        self.post_attention_layernorm = RMSNorm(self.eps)
        self.mlp = GatedMLP(self.sizes.width, self.sizes.mlp_width, self.dtype)

    def project(self, hidden: Array, rotation: rope.Rotation | None) -> tuple[Array, KeyValue]:
        """Gives this layer's queries, keys and values for `hidden` [B, T, D]."""
        normed = self.input_layernorm(hidden)
        return (
            self.self_attn.queries(normed, rotation),
            self.self_attn.keys_values(normed, rotation),
        )

    def finish(self, hidden: Array, attended: Array) -> Array:
        """Adds what attention gave [B, T, D], and then the MLP."""
        hidden = hidden + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden))

    def __call__(
        self, hidden: Array, rotation: rope.Rotation | None, key_mask: Array | None
    ) -> Array:
        """Runs the layer on `hidden` [B, T, D]."""
        q, kv = self.project(hidden, rotation)
        return self.finish(hidden, self.self_attn.attend(q, kv, key_mask))
