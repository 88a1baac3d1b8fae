"""Other ways to summarise a window of frames, to compare the released attention pooler with.

  embed -> gated MLPs on every frame -> reduce F frames to one vector -> gated MLPs on it -> norm

What reduces is a mean, or a convolution as long as the window with the same stride. The MLPs are
as wide as it takes to have the attention pooler's number of parameters.
"""

import flax.linen as nn
import jax.numpy as jnp

from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.layers import GatedMLP, Linear, Quirks, RMSNorm
from acestep_jax.typing import Array


def attention_layer_size(config: ModelConfig) -> int:
    """Counts the parameters of one layer of the attention pooler."""
    sizes = config.encoder
    heads = (sizes.num_heads + sizes.num_kv_heads) * sizes.head_dim  # q with o, and k with v
    norms = 2 * sizes.head_dim + 2 * sizes.width
    return 2 * sizes.width * heads + 3 * sizes.width * sizes.mlp_width + norms


class Block(nn.Module):
    """Computes x + mlp(norm(x))."""

    width: int
    mlp_width: int
    eps: float
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.norm = RMSNorm(self.eps)
        self.mlp = GatedMLP(self.width, self.mlp_width, self.dtype)

    def __call__(self, x: Array) -> Array:
        return x + self.mlp(self.norm(x))


class MeanPooler(nn.Module):
    """Pools each window by the mean of its frames: [B, F, He] to [B, He].

    Attributes:
      config: the package's sizes; depth and width are those of the attention pooler.
      dtype: of products.
      remat, attention, quirks: taken so that every pooler is built alike; nothing here needs them.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "auto"
    quirks: Quirks = Quirks()

    @property
    def reduction_size(self) -> int:
        """Parameters of the reduction."""
        return 0

    @property
    def mlp_width(self) -> int:
        """Width at which the pooler is as large as the attention pooler."""
        width, depth = self.config.encoder.width, self.config.num_attention_pooler_hidden_layers
        token = width
        wanted = depth * attention_layer_size(self.config) + token
        left = wanted - self.reduction_size - depth * width  # a norm in each block
        return max(1, round(left / (depth * 3 * width)))

    def setup(self) -> None:
        config = self.config
        depth = config.num_attention_pooler_hidden_layers
        before = (depth + 1) // 2
        options = (config.encoder.width, self.mlp_width, config.rms_norm_eps, self.dtype)
        self.embed_tokens = Linear(config.encoder.width, use_bias=True, dtype=self.dtype)
        self.frame_blocks = [Block(*options) for _ in range(before)]
        self.window_blocks = [Block(*options) for _ in range(depth - before)]
        self.norm = RMSNorm(config.rms_norm_eps)

    def __call__(self, frames: Array) -> Array:
        """Summarises windows of frames."""
        hidden = self.embed_tokens(frames)
        for block in self.frame_blocks:
            hidden = block(hidden)
        hidden = self.reduce(hidden)
        for block in self.window_blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def reduce(self, hidden: Array) -> Array:
        """Averages: [B, F, He] to [B, He]."""
        return jnp.mean(hidden, axis=1)


class ConvPooler(MeanPooler):
    """Pools each window by a convolution whose kernel and stride are the window: one product."""

    @property
    def reduction_size(self) -> int:
        """Parameters of the convolution."""
        width = self.config.encoder.width
        return self.config.pool_window_size * width * width + width

    def setup(self) -> None:
        super().setup()
        self.conv = Linear(self.config.encoder.width, use_bias=True, dtype=self.dtype)

    def reduce(self, hidden: Array) -> Array:
        """Convolves: [B, F, He] to [B, He]."""
        return self.conv(hidden.reshape(hidden.shape[0], -1))
