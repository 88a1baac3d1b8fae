"""Starts the autoencoder as a cascade of lapped transforms, which already carries a waveform.

From random kernels, the loss falls for thousands of steps by matching envelopes before any phase is
matched: five upsampling stages must all become smooth before a bass note can pass. But a strided
convolution whose kernel spans two strides is the analysis of a modified discrete cosine transform,

    h_k[n] = sin(pi (n + 1/2) / 2s) sqrt(2/s) cos(pi/s (n + 1/2 + s/2)(k + 1/2)), n < 2s,     (1)

and the transposed convolution with the same kernel is its synthesis; together they return their
input (Princen & Bradley 1986). So the stages begin as (1), each on the strongest bands of the one
before, and the last layer as the principal components of what is left. Residual branches begin
small and main-path Snakes nearly straight. A quarter of all channels stays random, for whatever
training finds; the rest is free to move as well.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.config import VAEConfig
from acestep_jax.ops.convolution import kernel_norm, strided_conv
from acestep_jax.typing import Array, Key, Params

_SHARE = 0.75  # of a layer's channels that carry the transform
_BRANCH = 0.05  # gain of residual branches and of the random channels
_STRAIGHT = 3.0  # log(beta) of main-path Snakes: x + sin^2(x) / 20
_JITTER = 0.02  # random part of the transform's kernels, so that no two channels stay alike
_LOG_STD = -2.0  # of the posterior: softplus(-2) = 0.13


def cosine_kernel(stride: int) -> Array:
    """Evaluates equation (1): [2s, s], orthonormal with its shifts by s."""
    n = np.arange(2 * stride)[:, None] + 0.5
    k = np.arange(stride)[None] + 0.5
    window = np.sin(np.pi * n / (2 * stride))
    basis = np.cos(np.pi / stride * (n + stride / 2) * k)
    return jnp.asarray(window * np.sqrt(2 / stride) * basis, jnp.float32)


def start_as_lapped_transform(
    config: VAEConfig, params: Params, audio: Array, key: Key
) -> dict[str, Params]:
    """Rewrites random parameters so that decode(encode(x)) keeps the strongest bands of x.

    Args:
      config: sizes of the autoencoder.
      params: as initialised, {"encoder", "decoder"}.
      audio: [B, W, 2], from which bands and components are chosen; some thousand latent frames.
      key: of the random parts.

    Returns:
      Parameters of the same shapes. Latents of `audio` have unit scale in every channel that the
      transform uses.

    Raises:
      ValueError: if the audio is not stereo.
    """
    if config.audio_channels != 2:
        raise ValueError(f"the autoencoder has {config.audio_channels} channels; this needs two.")
    encoder, decoder = _quieted(params["encoder"]), _quieted(params["decoder"])
    keys = iter(jax.random.split(key, 4 + 2 * len(config.downsampling_ratios)))

    # every clip counts alike where bands are chosen; its level counts where latents are scaled
    level = jnp.sqrt(jnp.mean(audio**2, axis=(1, 2), keepdims=True)) + 1e-3
    x = audio / level
    rotation = jnp.array([[1.0, 1.0], [1.0, -1.0]]) * math.sqrt(0.5)  # sum and difference
    x = x @ rotation
    _write(encoder["conv1"], _center(rotation, 7), next(keys))
    _write(decoder["conv2"], _center(rotation, 7), next(keys))

    for i, stride in enumerate(config.downsampling_ratios):
        down = encoder[f"block_{i}"]["conv1"]
        up = decoder[f"block_{len(config.downsampling_ratios) - 1 - i}"]["conv_t1"]
        kernel = _bands(x.shape[-1], stride)
        bands = strided_conv(x, kernel, stride=stride, padding=stride // 2)
        width = int(_SHARE * down["weight_g"].size)
        chosen = jnp.argsort(-jnp.mean(bands**2, axis=(0, 1)))[:width]
        x, kernel = bands[..., chosen], kernel[..., chosen]
        _write(down, kernel, next(keys))
        _write(up, kernel.transpose(0, 2, 1), next(keys), axis=1)

    flat = x.reshape(-1, x.shape[-1])
    _, vectors = jnp.linalg.eigh(flat.T @ flat)
    components = vectors[:, ::-1][:, : int(_SHARE * config.decoder_input_channels)]
    scale = jnp.std(x * level @ components, axis=(0, 1)) + 1e-6
    _write(encoder["conv2"], _center(components / scale[None], 3), next(keys))
    _write(decoder["conv1"], _center((components * scale[None]).T, 7), next(keys))
    bias = encoder["conv2"]["bias"].at[config.decoder_input_channels :].set(_LOG_STD)
    encoder["conv2"]["bias"] = bias
    return {"encoder": encoder, "decoder": decoder}


def _quieted(tree: Params) -> dict:
    """Copies the tree, with small residual branches and nearly straight main-path Snakes."""

    def quiet(name: str, node: Params) -> dict:
        if name.startswith("res_unit"):
            small = node["conv2"]["weight_g"] * _BRANCH
            return {**node, "conv2": {**node["conv2"], "weight_g": small}}
        if "beta" in node:
            return {**node, "beta": jnp.full_like(node["beta"], _STRAIGHT)}
        return {k: quiet(k, v) if isinstance(v, dict) else v for k, v in node.items()}

    return quiet("", tree)


def _center(matrix: Array, width: int) -> Array:
    """Puts a matrix [in, out] at the middle tap of a kernel [width, in, out]."""
    return jnp.zeros((width, *matrix.shape)).at[width // 2].set(matrix)


def _bands(channels: int, stride: int) -> Array:
    """Splits every channel into `stride` bands: [2s, channels, channels * s]."""
    kernel = jnp.einsum("nk,ic->nick", cosine_kernel(stride), jnp.eye(channels))
    return kernel.reshape(2 * stride, channels, -1)


def _write(conv: dict, kernel: Array, key: Key, *, axis: int = 2) -> None:
    """Writes a kernel [k, in, out] into the first channels of a weight-normalised convolution.

    The other channels along `axis`, the norm's own, stay random: at full size in the encoder, which
    may use them, and nearly silent in the decoder (axis 1), where they would be heard.
    """
    drawn = conv["weight_v"]
    _, fan_in, fan_out = kernel.shape
    jitter = _JITTER / math.sqrt(drawn.shape[0] * drawn.shape[1])
    written = jitter * jax.random.normal(key, drawn.shape)
    written = written.at[:, :fan_in, :fan_out].add(kernel)
    ours = jnp.arange(drawn.shape[axis]) < kernel.shape[axis]
    spread = ours.reshape([-1 if i == axis else 1 for i in range(3)])
    conv["weight_v"] = jnp.where(spread, written, drawn)
    norm = kernel_norm(conv["weight_v"], axis=axis)
    conv["weight_g"] = norm * jnp.where(ours, 1.0, _BRANCH if axis == 1 else 1.0)
