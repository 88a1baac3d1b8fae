"""Oobleck: the autoencoder between 48 kHz stereo and 25 Hz latents.

Five blocks of dilated residual units, each followed by a strided convolution, shrink time by
2·4·4·6·10 = 1920 while the channels grow 16-fold; the decoder walks back. Activations are Snake,
x + sin²(αx)/β, which lets a convolution oscillate; every kernel is weight-normalised, W = g·v/‖v‖.
Arrays are [B, time, channels] throughout. Snake and the strided convolutions are evaluated in
forms of our own (ops/snake.py, ops/convolution.py), faster than XLA's.

Source: the released AutoencoderOobleck (Stability AI's Oobleck, Evans et al. 2024,
arXiv:2404.10301); Snake: Ziyin et al. 2020, arXiv:2006.08195.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.parameter import param
from acestep_jax.ops.convolution import (
    kernel_norm,
    strided_conv,
    transposed_conv,
    weight_norm,
)
from acestep_jax.ops.sharding import share_batch
from acestep_jax.ops.snake import snake
from acestep_jax.typing import Array, Key, Params

_DILATIONS = (1, 3, 9)
_LAYOUT = ("NWC", "WIO", "NWC")


@flax.struct.dataclass
class Posterior:
    """What the encoder believes: independent normals, one a latent channel and frame.

    Attributes:
      mean: [B, T, C].
      std: [B, T, C], positive: softplus(scale) + 1e-4.
    """

    mean: Array
    std: Array

    def sample(self, key: Key) -> Array:
        """Draws latents mean + std · ε; the release samples everywhere, also at inference."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.std * noise


class Snake(nn.Module):
    """Adds a periodic part to the identity: x + sin²(e^alpha x) / (e^beta + 1e-9).

    Both parameters are stored as logarithms. Evaluated in float32 whatever the input.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        alpha = param(self, "alpha", nn.initializers.zeros, (x.shape[-1],))
        beta = param(self, "beta", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        # 1e-9 inside the reciprocal, as released
        frequency, gain = jnp.exp(alpha), 1 / (jnp.exp(beta) + 1e-9)
        return snake(wide, frequency[None, None], gain[None, None]).astype(x.dtype)


class _WeightNormed(nn.Module):
    """Holds a kernel [k, in, out] as weight_g and weight_v, or folded as `kernel`."""

    features: int
    width: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    def read_kernel(self, in_features: int, *, axis: int) -> Array:
        if self.has_variable("params", "kernel"):  # see fold_weight_norm
            return self.get_variable("params", "kernel").astype(self.dtype)
        # PyTorch's default for convolutions: uniform with variance 1 / (3 · fan in)
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        weight_v = param(self, "weight_v", init, (self.width, in_features, self.features))
        weight_g = param(
            self, "weight_g", lambda *_: kernel_norm(weight_v, axis=axis), (weight_v.shape[axis],)
        )
        return weight_norm(weight_g, weight_v, axis=axis).astype(self.dtype)

    def add_bias(self, x: Array) -> Array:
        if not self.use_bias:
            return x
        bias = param(self, "bias", nn.initializers.zeros, (self.features,))
        return share_batch(x + bias.astype(self.dtype)[None, None])


class Conv(_WeightNormed):
    """Convolves [B, W, in] -> [B, W, out] with a weight-normalised kernel [k, in, out], k odd."""

    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = self.dilation * (self.width - 1) // 2
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.read_kernel(x.shape[-1], axis=2),
            window_strides=(1,),
            padding=[(padding, padding)],
            rhs_dilation=(self.dilation,),
            dimension_numbers=_LAYOUT,
        )
        return self.add_bias(y)


class StridedConv(_WeightNormed):
    """Shrinks time by `stride`: kernel [2s, in, out], padding ceil(s/2)."""

    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.read_kernel(x.shape[-1], axis=2)
        y = strided_conv(
            x.astype(self.dtype), kernel, stride=self.stride, padding=math.ceil(self.stride / 2)
        )
        return self.add_bias(y)


class ConvTranspose(_WeightNormed):
    """Widens time by `stride`: the transpose of a strided convolution, kernel [2s, in, out].

    The weight norm runs over (k, out): the released tensor's first axis is the input channel.
    """

    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.read_kernel(x.shape[-1], axis=1)
        y = transposed_conv(
            x.astype(self.dtype), kernel, stride=self.stride, padding=math.ceil(self.stride / 2)
        )
        return self.add_bias(y)


class ResidualUnit(nn.Module):
    """Adds conv2(snake2(conv1(snake1(x)))) to x; conv1 has 7 taps, conv2 one."""

    features: int
    dilation: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Snake(name="snake1")(x)
        y = Conv(self.features, 7, dilation=self.dilation, dtype=self.dtype, name="conv1")(y)
        y = Snake(name="snake2")(y)
        return x + Conv(self.features, 1, dtype=self.dtype, name="conv2")(y)


class EncoderBlock(nn.Module):
    """Three residual units, then Snake and a convolution of stride s onto `features`."""

    features: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, dilation in enumerate(_DILATIONS):
            x = ResidualUnit(x.shape[-1], dilation, self.dtype, name=f"res_unit{i + 1}")(x)
        x = Snake(name="snake1")(x)
        return StridedConv(
            self.features, 2 * self.stride, stride=self.stride, dtype=self.dtype, name="conv1"
        )(x)


class DecoderBlock(nn.Module):
    """Snake and a transposed convolution of stride s onto `features`, then three residual units."""

    features: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Snake(name="snake1")(x)
        x = ConvTranspose(
            self.features, 2 * self.stride, stride=self.stride, dtype=self.dtype, name="conv_t1"
        )(x)
        for i, dilation in enumerate(_DILATIONS):
            x = ResidualUnit(self.features, dilation, self.dtype, name=f"res_unit{i + 1}")(x)
        return x


def _channel_multiples(config: VAEConfig) -> tuple[int, ...]:
    return (1, *config.channel_multiples)  # the leading 1 is implied in the released config


class Encoder(nn.Module):
    """Maps audio [B, W, 2] to [B, floor(W / hop), 2C]: means, then scales."""

    config: VAEConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, audio: Array) -> Array:
        config, base = self.config, self.config.encoder_hidden_size
        block = nn.remat(EncoderBlock) if self.remat else EncoderBlock
        x = Conv(base, 7, dtype=self.dtype, name="conv1")(audio)
        widths = _channel_multiples(config)[1:]
        for i, (width, stride) in enumerate(zip(widths, config.downsampling_ratios, strict=True)):
            x = block(base * width, stride, self.dtype, name=f"block_{i}")(x)
        x = Snake(name="snake1")(x)
        # `encoder_hidden_size` channels in the release, which is twice its 64 latent channels
        latent = 2 * config.decoder_input_channels
        return Conv(latent, 3, dtype=self.dtype, name="conv2")(x)


class Decoder(nn.Module):
    """Maps latents [B, T, C] to audio [B, hop · T, 2]; no final nonlinearity, no final bias."""

    config: VAEConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        config, base = self.config, self.config.decoder_channels
        block = nn.remat(DecoderBlock) if self.remat else DecoderBlock
        multiples = _channel_multiples(config)[::-1]
        x = Conv(base * multiples[0], 7, dtype=self.dtype, name="conv1")(latents)
        strides = config.downsampling_ratios[::-1]
        for i, (width, stride) in enumerate(zip(multiples[1:], strides, strict=True)):
            x = block(base * width, stride, self.dtype, name=f"block_{i}")(x)
        x = Snake(name="snake1")(x)
        return Conv(config.audio_channels, 7, use_bias=False, dtype=self.dtype, name="conv2")(x)


class VAE(nn.Module):
    """The Oobleck autoencoder.

    Attributes:
      config: sizes.
      dtype: compute dtype; parameters stay float32, posterior and audio come back in float32.
      remat: recompute blocks in the backward pass (training long segments).
    """

    config: VAEConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype, self.remat)
        self.decoder = Decoder(self.config, self.dtype, self.remat)

    def encode(self, audio: Array) -> Posterior:
        """Encodes audio [B, W, 2] in [-1, 1] to a posterior over [B, floor(W / hop), C].

        Raises:
          ValueError: if the audio is not [B, W, channels] or is shorter than one latent frame.
        """
        channels, hop = self.config.audio_channels, self.config.hop
        if audio.ndim != 3 or audio.shape[-1] != channels or audio.shape[1] < hop:
            raise ValueError(
                f"audio has shape {audio.shape}; encode reads [B, W, {channels}] with W >= {hop}, "
                "channels last."
            )
        mean, scale = jnp.split(self.encoder(audio).astype(jnp.float32), 2, axis=-1)
        return Posterior(mean=mean, std=jax.nn.softplus(scale) + 1e-4)

    def decode(self, latents: Array) -> Array:
        """Decodes latents [B, T, C] to audio [B, hop · T, 2], which may leave [-1, 1].

        Raises:
          ValueError: if the last axis is not the latent channel.
        """
        channels = self.config.decoder_input_channels
        if latents.ndim != 3 or latents.shape[-1] != channels:
            raise ValueError(
                f"latents have shape {latents.shape}; decode reads [B, T, {channels}], "
                "channels last."
            )
        return self.decoder(latents).astype(jnp.float32)

    def __call__(self, audio: Array, key: Key) -> tuple[Array, Posterior]:
        """Encodes, samples and decodes: the training pass. Returns (reconstruction, posterior)."""
        posterior = self.encode(audio)
        return self.decode(posterior.sample(key)), posterior


def fold_weight_norm(params: Params) -> dict:
    """Replaces every (weight_g, weight_v) by the `kernel` they stand for.

    The same modules read the folded tree; use it for inference, where normalising 169 M parameters
    on each call costs time. Training needs the unfolded tree.
    """

    def fold(name: str, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        if "weight_v" not in node:
            return {key: fold(key, value) for key, value in node.items()}
        axis = 1 if name == "conv_t1" else 2  # the released tensor's first axis
        kernel = weight_norm(node["weight_g"], node["weight_v"], axis=axis)
        rest = {k: v for k, v in node.items() if k not in ("weight_g", "weight_v")}
        return {"kernel": kernel, **rest}

    return fold("", params)


def scale_latents(params: Params, scale: Array) -> dict:
    """Divides every latent channel by `scale` [C], in the encoder and, inversely, in the decoder.

    Means and the decoder's answer to them are exact. The posterior's std = softplus(s) + 1e-4
    cannot be divided exactly: s is lowered by log(scale), which is right where std is small
    (softplus is then the exponential; 2 % off at 0.15).

    Args:
      params: of `VAE`, not folded.
      scale: positive, the present spread of each channel.

    Returns:
      New parameters, whose latents are the old ones over `scale`.
    """
    last, first = params["encoder"]["conv2"], params["decoder"]["conv1"]
    gain = jnp.concatenate([1 / scale, jnp.ones_like(scale)])
    offset = jnp.concatenate([jnp.zeros_like(scale), jnp.log(scale)])
    last = {**last, "weight_g": last["weight_g"] * gain, "bias": last["bias"] * gain - offset}
    kernel = weight_norm(first["weight_g"], first["weight_v"], axis=2) * scale[None, :, None]
    first = {**first, "weight_v": kernel, "weight_g": kernel_norm(kernel, axis=2)}
    return {
        "encoder": {**params["encoder"], "conv2": last},
        "decoder": {**params["decoder"], "conv1": first},
    }
