"""The diffusion transformer: noisy latents, a time and a condition in, a velocity out.

  context (source | edit mask) and x_t, 192 channels at 25 Hz
    -> patches of two frames at 12.5 Hz
    -> layers: self-attention (sliding and full in turn), cross-attention to the condition, MLP
    -> norm, modulation, and back to frames: velocity = noise - data

The times t and t - r are embedded apart and added; they shift, scale and gate the self-attention
and the MLP of every layer (Peebles & Xie 2023, arXiv:2212.09748), never the cross-attention.
Source of the layout: AceStepDiTModel of the release.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from acestep_jax.nn.attention import Attention, KeyValue
from acestep_jax.nn.config import ModelConfig, TransformerSizes
from acestep_jax.nn.layers import (
    MODULATIONS,
    GatedMLP,
    Linear,
    Quirks,
    RMSNorm,
    TimeEmbedding,
    along_last,
    modulate,
    table_init,
)
from acestep_jax.nn.parameter import param
from acestep_jax.nn.stack import AlternatingStack
from acestep_jax.ops import masks, rope
from acestep_jax.ops.attention import probabilities
from acestep_jax.ops.sharding import BATCH, constrain
from acestep_jax.typing import Array


@flax.struct.dataclass
class CrossKV:
    """What cross-attention reads from a condition, for every layer; constant over a sample.

    Attributes:
      k: keys [num_layers, B, L, K, H].
      v: values, the same shape.
      mask: which condition tokens are real [B, L]; None treats all as real.
    """

    k: Array
    v: Array
    mask: Array | None


class Shared(NamedTuple):
    """What every layer reads besides its own parameters.

    Attributes:
      modulation: [B, 6, D] float32, of both times.
      rotation: rotary table of the patch positions.
      patch_mask: [B, P] or None.
      condition: embedded condition [B, L, D], or None where keys and values are given.
      condition_mask: [B, L] or None.
    """

    modulation: Array
    rotation: rope.Rotation
    patch_mask: Array | None
    condition: Array | None
    condition_mask: Array | None


class PatchEmbed(nn.Module):
    """Joins two frames to a patch: h[p] = b + sum_j x[2p + j] W[j]; an odd end is zero-padded."""

    width: int
    patch_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.patch_size, x.shape[-1], self.width)
        kernel = param(self, "kernel", nn.initializers.lecun_normal(in_axis=(0, 1)), shape)
        bias = param(self, "bias", nn.initializers.zeros, (self.width,))
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.patch_size), (0, 0)))
        patches = x.reshape(x.shape[0], -1, self.patch_size * x.shape[-1]).astype(self.dtype)
        flat = kernel.reshape(-1, self.width).astype(self.dtype)
        hidden = jnp.einsum("BPC,CD->BPD", patches, flat)
        return hidden + along_last(bias.astype(self.dtype), hidden)


class PatchHead(nn.Module):
    """Splits a patch into two frames: y[2p + j] = b + h[p] W[j]."""

    channels: int
    patch_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        shape = (self.patch_size, hidden.shape[-1], self.channels)
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        kernel = param(self, "kernel", init, shape)
        bias = param(self, "bias", nn.initializers.zeros, (self.channels,))
        frames = jnp.einsum("BPD,JDC->BPJC", hidden.astype(self.dtype), kernel.astype(self.dtype))
        frames = frames.reshape(hidden.shape[0], -1, self.channels)
        return frames + along_last(bias.astype(self.dtype), frames)


class DiTLayer(nn.Module):
    """One layer: modulated self-attention, plain cross-attention, modulated MLP."""

    sizes: TransformerSizes
    window: int | None = None
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        attention = functools.partial(
            Attention,
            self.sizes,
            eps=self.eps,
            dtype=self.dtype,
            implementation=self.implementation,
        )
        self.scale_shift_table = param(
            self, "scale_shift_table", table_init, (1, MODULATIONS, self.sizes.width)
        )
        self.self_attn_norm = RMSNorm(self.eps)
        self.self_attn = attention(window=self.window)
        self.cross_attn_norm = RMSNorm(self.eps)
        self.cross_attn = attention()
        self.mlp_norm = RMSNorm(self.eps)
        self.mlp = GatedMLP(self.sizes.width, self.sizes.mlp_width, self.dtype)

    def __call__(
        self, hidden: Array, shared: Shared, cross: KeyValue | None
    ) -> tuple[Array, dict[str, Array]]:
        """Runs the layer on `hidden` [B, P, D].

        Returns the stream and what can be tapped: the stream itself (`hidden`) and the queries of
        the cross-attention (`cross_queries`, [B, P, N, H]).
        """
        modulation = self.scale_shift_table + shared.modulation
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(modulation, 6, axis=1)

        x = modulate(self.self_attn_norm(hidden), shift, scale)
        x = self.self_attn(x, shared.rotation, shared.patch_mask)
        hidden = hidden + (gate * x).astype(hidden.dtype)

        queries = self.cross_attn.queries(self.cross_attn_norm(hidden))
        cross = self.cross_attn.keys_values(shared.condition) if cross is None else cross
        hidden = hidden + self.cross_attn.attend(queries, cross, shared.condition_mask)

        x = modulate(self.mlp_norm(hidden), mlp_shift, mlp_scale)
        hidden = hidden + (mlp_gate * self.mlp(x)).astype(hidden.dtype)
        hidden = constrain(hidden, BATCH, "sequence")
        return hidden, {"hidden": hidden, "cross_queries": queries}


def _run_layer(
    layer: DiTLayer, hidden: Array, shared: Shared, own: KeyValue | None
) -> tuple[Array, dict[str, Array]]:
    return layer(hidden, shared, own)


class DiT(nn.Module):
    """Predicts the velocity noise - data of a flow at time t (1 is noise, 0 is data).

    Attributes:
      config: the model's sizes.
      dtype: of the layers' products; parameters, norms, softmax and time stay float32.
      remat: recompute each pair of layers in the backward pass.
      attention: see `ops.attention.IMPLEMENTATIONS`.
      quirks: roundings of the bfloat16 release to reproduce.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "auto"
    quirks: Quirks = Quirks()

    def setup(self) -> None:
        config, width = self.config, self.config.dit.width
        make_layer = functools.partial(
            DiTLayer,
            config.dit,
            eps=config.rms_norm_eps,
            dtype=self.dtype,
            implementation=self.attention,
        )
        self.proj_in = PatchEmbed(width, config.patch_size, self.dtype)
        self.time_embed = TimeEmbedding(width, self.quirks.bfloat16_times)
        self.time_embed_r = TimeEmbedding(width, self.quirks.bfloat16_times)
        self.condition_embedder = Linear(width, use_bias=True, dtype=self.dtype)
        self.layers = AlternatingStack(
            make_layer, config.num_hidden_layers, config.sliding_window, self.remat
        )
        self.norm_out = RMSNorm(config.rms_norm_eps)
        self.scale_shift_table = param(self, "scale_shift_table", table_init, (1, 2, width))
        self.proj_out = PatchHead(config.audio_acoustic_hidden_dim, config.patch_size, self.dtype)

    def __call__(
        self,
        x_t: Array,
        t: Array,
        context: Array,
        condition: Array | CrossKV,
        *,
        r: Array | None = None,
        condition_mask: Array | None = None,
        frame_mask: Array | None = None,
        hidden_layers: tuple[int, ...] = (),
    ) -> Array | tuple[Array, dict[int, Array]]:
        """Predicts the velocity at x_t.

        Args:
          x_t: noisy latents [B, T, C].
          t: flow times [B] or scalar, in [0, 1].
          context: source latents and edit mask [B, T, 2C].
          condition: tokens [B, L, He], or their keys and values from `project_condition`; one item
            serves the whole batch. For the unconditional branch one row of the null embedding is
            enough: attention over equal rows returns that row.
          r: end of the averaged interval, [B] or scalar; None for r = t, as all released models.
          condition_mask: [B, L], False for padding; not beside a CrossKV, which has its own.
          frame_mask: [B, T], False for padding frames. With the masks an item in a padded bucket
            gets the numbers it gets alone; None ignores padding, which is what the release does.
          hidden_layers: layers whose output stream to return.

        Returns:
          Velocity [B, T, C] float32; with `hidden_layers` also {layer: [B, P, D]}.

        Raises:
          ValueError: if channels, batch or masks do not fit.
        """
        velocity, tapped = self._run(
            x_t, t, context, condition, r, condition_mask, frame_mask, {"hidden": hidden_layers}
        )
        return (velocity, tapped["hidden"]) if hidden_layers else velocity

    def project_condition(self, condition: Array, condition_mask: Array | None = None) -> CrossKV:
        """Computes every layer's cross-attention keys and values, once for a whole sample.

        Args:
          condition: tokens [B, L, He].
          condition_mask: [B, L], or None to attend padding too, as the release does.
        """
        embedded = self._embed_condition(condition)
        stacked = self.layers.collect(
            lambda layer, condition: layer.cross_attn.keys_values(condition), embedded
        )
        return CrossKV(stacked.k, stacked.v, condition_mask)

    def cross_attention_maps(
        self,
        x_t: Array,
        t: Array,
        context: Array,
        condition: CrossKV,
        heads: Mapping[int, tuple[int, ...]],
        *,
        frame_mask: Array | None = None,
    ) -> dict[int, Array]:
        """Computes the cross-attention weights of chosen heads, and of no others.

        Args:
          x_t, t, context, frame_mask: as for a call.
          condition: from `project_condition`.
          heads: {layer: query heads}.

        Returns:
          {layer: float32 [B, len(heads), P, L]}, rows summing to one over the condition.
        """
        layers = tuple(sorted(heads))
        _, tapped = self._run(
            x_t, t, context, condition, None, None, frame_mask, {"cross_queries": layers}
        )
        group = self.config.dit.num_heads // self.config.dit.num_kv_heads
        maps = {}
        for layer, queries in tapped["cross_queries"].items():
            chosen = jnp.array(heads[layer])
            keys = _for_batch(condition.k[layer], queries.shape[0], axis=0)[:, :, chosen // group]
            maps[layer] = probabilities(queries[:, :, chosen], keys, key_mask=condition.mask)
        return maps

    def _run(
        self,
        x_t: Array,
        t: Array,
        context: Array,
        condition: Array | CrossKV,
        r: Array | None,
        condition_mask: Array | None,
        frame_mask: Array | None,
        taps: Mapping[str, tuple[int, ...]],
    ) -> tuple[Array, dict[str, dict[int, Array]]]:
        self._check(x_t, context, condition, condition_mask)
        batch, length, _ = x_t.shape
        embedding, modulation = self._embed_times(t, r, batch)
        # source | edit mask | noisy: swapping them loads well and sounds broken
        frames = jnp.concatenate([context.astype(jnp.float32), x_t.astype(jnp.float32)], axis=-1)
        patch_mask = None
        if frame_mask is not None:
            # a patch may be half padding: the release fills an odd end with zeros
            frames = jnp.where(frame_mask[..., None], frames, 0)
            patch_mask = masks.patches(frame_mask, self.config.patch_size)
        hidden = constrain(self.proj_in(frames), BATCH, "sequence")
        embedded, cross, mask = self._read_condition(condition, condition_mask, batch)
        shared = Shared(modulation, self._rotation(hidden.shape[1]), patch_mask, embedded, mask)
        hidden, tapped = self.layers.run(_run_layer, hidden, shared, cross, taps)

        shift, scale = jnp.split(self.scale_shift_table + embedding[:, None, :], 2, axis=1)
        hidden = modulate(self.norm_out(hidden), shift, scale)
        return self.proj_out(hidden)[:, :length].astype(jnp.float32), tapped

    def _embed_times(self, t: Array, r: Array | None, batch: int) -> tuple[Array, Array]:
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (batch,))
        # with r = t the second embedding is a constant of the checkpoint, but not zero
        gap = jnp.zeros((1,)) if r is None else t - jnp.asarray(r, jnp.float32)
        embedding, projection = self.time_embed(t)
        gap_embedding, gap_projection = self.time_embed_r(gap)
        return embedding + gap_embedding, projection + gap_projection

    def _embed_condition(self, condition: Array) -> Array:
        return self.condition_embedder(condition)

    def _read_condition(
        self, condition: Array | CrossKV, condition_mask: Array | None, batch: int
    ) -> tuple[Array | None, KeyValue | None, Array | None]:
        if isinstance(condition, CrossKV):
            cross = KeyValue(
                _for_batch(condition.k, batch, axis=1), _for_batch(condition.v, batch, axis=1)
            )
            mask = condition.mask
            return None, cross, None if mask is None else _for_batch(mask, batch, axis=0)
        mask = None if condition_mask is None else _for_batch(condition_mask, batch, axis=0)
        return _for_batch(self._embed_condition(condition), batch, axis=0), None, mask

    def _rotation(self, num_patches: int) -> rope.Rotation:
        frequencies = rope.inverse_frequencies(
            self.config.head_dim,
            self.config.rope_theta,
            bfloat16=self.quirks.bfloat16_frequencies,
        )
        return rope.rotation_at(jnp.arange(num_patches), frequencies)

    def _check(
        self, x_t: Array, context: Array, condition: Any, condition_mask: Array | None
    ) -> None:
        channels = self.config.audio_acoustic_hidden_dim
        if x_t.shape[-1] != channels or context.shape != (*x_t.shape[:2], 2 * channels):
            raise ValueError(
                f"x_t {x_t.shape} and context {context.shape} must be [B, T, {channels}] and "
                f"[B, T, {2 * channels}] (source latents, then edit mask)."
            )
        if isinstance(condition, CrossKV):
            if condition_mask is not None:
                raise ValueError(
                    "condition_mask beside a CrossKV; give the mask to project_condition instead."
                )
        elif condition.shape[-1] != self.config.encoder.width:
            raise ValueError(
                f"condition has {condition.shape[-1]} channels but this DiT reads "
                f"{self.config.encoder.width}; was it built for another preset?"
            )


def _for_batch(x: Array, batch: int, axis: int) -> Array:
    """Repeats a single item for the whole batch."""
    if x.shape[axis] == batch:
        return x
    if x.shape[axis] != 1:
        raise ValueError(f"condition has {x.shape[axis]} items for a batch of {batch}.")
    return jnp.broadcast_to(x, (*x.shape[:axis], batch, *x.shape[axis + 1 :]))
