"""Judges audio on complex spectra at several resolutions, for the autoencoder's adversarial phase.

Each scale reads real and imaginary parts of a short-time spectrum as an image [frames, bins] and
answers with a map of logits; its inner activations are returned for feature matching. The filters
are weight-normalised, dilated 1, 2, 4 along time and strided along frequency.

Source: the multi-scale STFT discriminator of EnCodec, Défossez et al. 2022, arXiv:2210.13438 §3.4.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from acestep_jax.nn.parameter import param
from acestep_jax.ops import stft
from acestep_jax.ops.convolution import kernel_norm, weight_norm
from acestep_jax.ops.sharding import share_batch
from acestep_jax.typing import Array

_LEAK = 0.2


class _Conv(nn.Module):
    """A weight-normalised convolution [B, frames, bins, in] -> [B, frames, bins', out]."""

    features: int
    width: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        weight_v = param(self, "weight_v", init, (*self.width, x.shape[-1], self.features))
        weight_g = param(
            self, "weight_g", lambda *_: kernel_norm(weight_v, axis=3), (self.features,)
        )
        bias = param(self, "bias", nn.initializers.zeros, (self.features,))
        reach = [d * (w - 1) // 2 for d, w in zip(self.dilation, self.width, strict=True)]
        y = jax.lax.conv_general_dilated(
            x,
            weight_norm(weight_g, weight_v, axis=3),
            window_strides=self.stride,
            padding=[(r, r) for r in reach],
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return share_batch(y + bias[None, None, None])


class ScaleDiscriminator(nn.Module):
    """Judges one resolution: [B, W, channels] -> (logits [B, frames, bins', 1], features).

    Attributes:
      window: of the spectrum, in samples; hop is window / 4.
      filters: channels of every hidden layer; 64 for full-size models.
    """

    window: int
    filters: int = 64

    @nn.compact
    def __call__(self, audio: Array) -> tuple[Array, list[Array]]:
        spectra = stft.stft(audio, self.window)
        x = jnp.concatenate([spectra.real, spectra.imag], axis=1).transpose(0, 2, 3, 1)
        features = []
        layers = [
            _Conv(self.filters, (3, 9), name="conv_0"),
            *(
                _Conv(self.filters, (3, 9), (1, 2), (2**i, 1), name=f"conv_{i + 1}")
                for i in range(3)
            ),
            _Conv(self.filters, (3, 3), name="conv_4"),
        ]
        for layer in layers:
            x = nn.leaky_relu(layer(x), _LEAK)
            features.append(x)
        return _Conv(1, (3, 3), name="conv_post")(x), features


class AudioDiscriminator(nn.Module):
    """Judges audio [B, W, channels] at several resolutions.

    Attributes:
      windows: one scale each.
      filters: channels of every hidden layer.

    Returns:
      (logits, features): one map of logits a scale, and the hidden activations of every scale.
    """

    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    filters: int = 64

    @nn.compact
    def __call__(self, audio: Array) -> tuple[list[Array], list[list[Array]]]:
        judged = [
            ScaleDiscriminator(window, self.filters, name=f"scale_{window}")(audio)
            for window in self.windows
        ]
        return [logits for logits, _ in judged], [features for _, features in judged]
