"""The small parts every network here is made of.

Parameters are float32; `dtype` is what products are computed in. Norms, the time embedding and
every modulation are float32 inside and return the dtype of the stream they act on.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from acestep_jax.nn.parameter import param
from acestep_jax.ops.dense import dense
from acestep_jax.ops.sharding import share_batch
from acestep_jax.typing import Array

# Standard deviation 1/sqrt(inputs): at the release's width of 2,048 its initializer_range of 0.02.
_kernel_init = nn.initializers.lecun_normal()

TIME_FEATURES = 256  # sines and cosines of the time; fixed in the release
TIME_SCALE = 1000.0  # flow times in [0, 1] meet the embedding as 0 .. 1000
MODULATIONS = 6  # shift, scale, gate of self-attention; the same of the MLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quirks:
    """Roundings of the release run in bfloat16, reproduced on request. All off: exact mathematics.

    Attributes:
      bfloat16_times: round t, and then 1000 t, to bfloat16 (multiples of 4 above 512).
      bfloat16_frequencies: round the rotary frequencies, which the release casts with its weights.
      bfloat16_codebook: build FSQ's constants in bfloat16, which makes the levels asymmetric.
    """

    bfloat16_times: bool = False
    bfloat16_frequencies: bool = False
    bfloat16_codebook: bool = False


def along_last(vector: Array, like: Array) -> Array:
    """Gives a vector [C] the rank of `like` [..., C], to broadcast knowingly."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


class Linear(nn.Module):
    """Computes x W + b with a float32 kernel [in, out], cast to `dtype` on use.

    Where the variables hold a collection `lora` (`nn.lora.collection`) with `lora_a` [in, r],
    `lora_b` [r, out] and `scale` [r] at this path, the adapter's `((x lora_a) · scale) lora_b` is
    added. A fourth entry, `dropout` [], is the chance of an input to be dropped for the adapter; it
    counts where a key named "dropout" is given.

    `codes` [in, out] int8 and `scale` [out] may stand in place of the kernel (`weights.int8`).
    """

    features: int
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.has_variable("params", "codes"):
            x = x.astype(self.dtype)
            y = self._quantized(x)
        else:
            kernel = param(self, "kernel", _kernel_init, (x.shape[-1], self.features))
            x = x.astype(self.dtype)
            y = dense(x, kernel.astype(self.dtype))
        if self.has_variable("lora", "lora_a"):
            y = y + self._adapter(x)
        if self.use_bias:
            bias = param(self, "bias", nn.initializers.zeros, (self.features,))
            y = y + along_last(bias.astype(self.dtype), y)
        return share_batch(y)

    def _quantized(self, x: Array) -> Array:
        """Computes (x codes) · scale of an 8-bit kernel (`weights.int8`), the scale in float32."""
        codes, scale = (self.get_variable("params", name) for name in ("codes", "scale"))
        y = dense(x, codes.astype(self.dtype)).astype(jnp.float32)
        return (y * along_last(scale, y)).astype(self.dtype)

    def _adapter(self, x: Array) -> Array:
        lora_a, lora_b, scale = (
            self.get_variable("lora", name).astype(self.dtype)
            for name in ("lora_a", "lora_b", "scale")
        )
        if self.has_variable("lora", "dropout") and self.has_rng("dropout"):
            kept = 1 - self.get_variable("lora", "dropout")
            mask = jax.random.bernoulli(self.make_rng("dropout"), kept, x.shape)
            x = jnp.where(mask, x / kept.astype(self.dtype), 0)
        low = x @ lora_a
        return (low * along_last(scale, low)) @ lora_b


class RMSNorm(nn.Module):
    """Computes weight · x / sqrt(mean(x²) + eps) over the last axis.

    Normalised in float32, cast to the dtype of `x`, then scaled: the order of Qwen3.
    """

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weight = param(self, "weight", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(variance + self.eps)).astype(x.dtype)
        return normed * along_last(weight.astype(x.dtype), x)


class GatedMLP(nn.Module):
    """Computes down(silu(gate(x)) · up(x)), without biases. Shazeer 2020, arXiv:2002.05202."""

    width: int
    mlp_width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.gate_proj = Linear(self.mlp_width, dtype=self.dtype)
        self.up_proj = Linear(self.mlp_width, dtype=self.dtype)
        self.down_proj = Linear(self.width, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


def time_features(t: Array, count: int = TIME_FEATURES, *, bfloat16: bool = False) -> Array:
    """Computes cos and sin of 1000 t · 10000^(-2k/count), float32 [..., count], cosines first.

    Args:
      t: flow times [...].
      count: features, an even number.
      bfloat16: round t and 1000 t to bfloat16 first (`Quirks.bfloat16_times`).
    """
    half = count // 2
    frequencies = jnp.exp(-math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    t = t.astype(jnp.float32)
    if bfloat16:
        t = _through_bfloat16(_through_bfloat16(t) * TIME_SCALE)
    else:
        t = t * TIME_SCALE
    angles = jnp.einsum("...,F->...F", t, frequencies)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _through_bfloat16(x: Array) -> Array:
    # a pair of casts could be dropped by the compiler; this operation may not
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


class TimeEmbedding(nn.Module):
    """Embeds a flow time, in float32.

    Returns the embedding [B, D], which the output head uses, and its projection [B, 6, D], which
    modulates every layer.
    """

    width: int
    bfloat16: bool = False

    def setup(self) -> None:
        self.linear_1 = Linear(self.width, use_bias=True)
        self.linear_2 = Linear(self.width, use_bias=True)
        self.time_proj = Linear(MODULATIONS * self.width, use_bias=True)

    def __call__(self, t: Array) -> tuple[Array, Array]:
        hidden = nn.silu(self.linear_1(time_features(t, bfloat16=self.bfloat16)))
        embedding = self.linear_2(hidden)
        projection = self.time_proj(nn.silu(embedding))
        return embedding, projection.reshape(*t.shape, MODULATIONS, self.width)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Computes x (1 + scale) + shift in float32 and returns the dtype of `x`."""
    return (x * (1 + scale) + shift).astype(x.dtype)


def table_init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Draws a modulation table or token: normal with deviation 1/sqrt(width), as the release."""
    return jax.random.normal(key, shape, dtype) / math.sqrt(shape[-1])
