"""Discriminators of latents: is a noised song real, and does it fit its prompt?

Both see latents re-noised to a level t, so that real and generated laws overlap, and give one logit
a segment of time. `LatentDiscriminator` (D1) is a ConvNeXt over time on the latents themselves;
`FeatureDiscriminator` (D2) puts such heads on hidden states of a DiT. The condition enters by
projection (Miyato & Koyama 2018, arXiv:1802.05637): logit = w h + h . P(pooled condition).

The block is ConvNeXt's (Liu et al. 2022, arXiv:2201.03545) in one dimension, without batch norm:
depthwise convolution of width 7, layer norm, 4x MLP with GELU, layer scale, residual. Padded frames
are zeroed before every convolution, so an item padded to its bucket keeps its logits.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from acestep_jax.nn.layers import time_features
from acestep_jax.nn.parameter import param
from acestep_jax.ops import masks
from acestep_jax.ops.sharding import share_batch
from acestep_jax.typing import Array

_TIME_FEATURES = 128


def pool_condition(condition: Array, condition_mask: Array | None = None) -> Array:
    """Averages condition tokens [B, L, D] over the valid ones: [B, D], float32."""
    condition = condition.astype(jnp.float32)
    if condition_mask is None:
        return jnp.mean(condition, axis=1)
    weights = condition_mask.astype(jnp.float32)[..., None]
    return jnp.sum(weights * condition, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


class ConvNeXtBlock(nn.Module):
    """x + scale MLP(norm(depthwise(x + time))): [B, T, D] -> [B, T, D].

    Attributes:
      layer_scale: initial size of the residual branch; 1e-6 in the paper, for its depth.
    """

    layer_scale: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, time: Array, mask: Array) -> Array:
        """Applies the block; `time` [B, E] features, `mask` [B, T] of ones on real frames."""
        width = x.shape[-1]
        h = (x + _dense(time, width, "time_proj")[:, None]) * mask[..., None]
        h = share_batch(nn.Conv(width, (7,), feature_group_count=width, name="depthwise")(h))
        h = nn.LayerNorm(epsilon=1e-6, name="norm")(h)
        h = _dense(nn.gelu(_dense(h, 4 * width, "fc1")), width, "fc2")
        scale = param(self, "scale", nn.initializers.constant(self.layer_scale), (width,))
        return x + scale[None, None] * h


class ProjectionHead(nn.Module):
    """Gives a logit a segment: w h + h . P(condition) / sqrt(D), [B, S, D] -> [B, S]."""

    @nn.compact
    def __call__(self, h: Array, pooled: Array) -> Array:
        """Applies the head; `pooled` is [B, Dc]."""
        width = h.shape[-1]
        h = nn.LayerNorm(epsilon=1e-6, name="norm")(h)
        fit = jnp.einsum("BSD,BD->BS", h, _dense(pooled, width, "condition_proj"))
        return _dense(h, 1, "logit")[..., 0] + fit / jnp.sqrt(float(width))


class LatentDiscriminator(nn.Module):
    """D1: a ConvNeXt over noised latents.

    Attributes:
      widths: channels of each stage; time is halved between stages.
      blocks: ConvNeXt blocks a stage.
      layer_scale: initial size of residual branches.
      remat: recompute every block in the backward pass.
    """

    widths: tuple[int, ...] = (128, 256, 384)
    blocks: int = 3
    layer_scale: float = 1e-6
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x_t: Array,
        t: Array,
        condition: Array,
        condition_mask: Array | None = None,
        frame_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """Judges noised latents.

        Args:
          x_t: [B, T, C] at level t.
          t: [B].
          condition: [B, L, D] condition tokens.
          condition_mask: [B, L].
          frame_mask: [B, T], 1 on real frames; None for all.

        Returns:
          Logits [B, S], S = T / 2^(stages - 1) rounded up, and the mask [B, S] of segments that
          hold a real frame.
        """
        x = x_t.astype(jnp.float32)
        mask = jnp.ones(x.shape[:2]) if frame_mask is None else frame_mask.astype(jnp.float32)
        time, make_block = _time_trunk(t), _make_block(self.remat)
        x = _dense(x, self.widths[0], "stem")
        for stage, width in enumerate(self.widths):
            if stage > 0:
                x, mask = _downsample(x * mask[..., None], mask, width, f"downsample_{stage}")
            for block in range(self.blocks):
                name = f"stage_{stage}_block_{block}"
                x = make_block(self.layer_scale, name=name)(x, time, mask)
        pooled = pool_condition(condition, condition_mask)
        return ProjectionHead(name="head")(x, pooled), mask


class FeatureDiscriminator(nn.Module):
    """D2: heads on hidden states of a DiT that read the same noised latents.

    Attributes:
      width: channels of each head.
      blocks: ConvNeXt blocks a head.
      layer_scale: initial size of residual branches.
      remat: recompute every block in the backward pass.
    """

    width: int = 256
    blocks: int = 2
    layer_scale: float = 1e-6
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: dict[int, Array],
        t: Array,
        condition: Array,
        condition_mask: Array | None = None,
        frame_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """Judges by features.

        Args:
          hidden: {layer: [B, P, H]} hidden states at the tapped layers.
          t: [B], the level the DiT was run at.
          condition: [B, L, D] condition tokens.
          condition_mask: [B, L].
          frame_mask: [B, T = 2P], 1 on real frames; None for all.

        Returns:
          Logits [B, S], one for every two patches of every tapped layer, and their mask.
        """
        time, make_block = _time_trunk(t), _make_block(self.remat)
        pooled = pool_condition(condition, condition_mask)
        logits, counted = [], []
        for layer in sorted(hidden):
            x = _dense(hidden[layer].astype(jnp.float32), self.width, f"stem_{layer}")
            mask = jnp.ones(x.shape[:2])
            if frame_mask is not None:
                mask = masks.patches(frame_mask).astype(jnp.float32)
            for block in range(self.blocks):
                name = f"layer_{layer}_block_{block}"
                x = make_block(self.layer_scale, name=name)(x, time, mask)
            x, mask = _downsample(x * mask[..., None], mask, self.width, f"group_{layer}")
            logits.append(ProjectionHead(name=f"head_{layer}")(x, pooled))
            counted.append(mask)
        return jnp.concatenate(logits, axis=1), jnp.concatenate(counted, axis=1)


def _make_block(remat: bool) -> Callable[..., nn.Module]:
    return nn.remat(ConvNeXtBlock) if remat else ConvNeXtBlock


def _time_trunk(t: Array) -> Array:
    """Turns times into the features every block reads; inside a compact module."""
    return jax.nn.silu(_dense(time_features(t, _TIME_FEATURES), _TIME_FEATURES, "time_embed"))


def _dense(x: Array, width: int, name: str) -> Array:
    """Applies a dense layer and keeps its batch shared; inside a compact module."""
    return share_batch(nn.Dense(width, name=name)(x))


def _downsample(x: Array, mask: Array, width: int, name: str) -> tuple[Array, Array]:
    """Halves time with a strided convolution; inside a compact module."""
    padding = [(0, x.shape[1] % 2)]
    x = nn.Conv(width, (2,), strides=(2,), padding=padding, name=name)(x)
    return share_batch(x), masks.patches(mask).astype(mask.dtype)
