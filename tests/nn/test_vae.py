"""The autoencoder: released numbers, lengths, and the two forms rewritten for speed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from acestep_jax.nn import vae
from acestep_jax.nn.config import VAES, VAEConfig

TINY = VAEConfig(
    encoder_hidden_size=8,
    downsampling_ratios=(2, 4),
    channel_multiples=(1, 2),
    decoder_channels=8,
    decoder_input_channels=4,
)


def _fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fills a tensor with a hash of its name and indices, uniform in [-1, 1)."""
    i = np.arange(np.prod(shape), dtype=np.uint64)
    h = (i * 2654435761 + sum(name.encode()) * 40503 + 12345) % 2**32
    h ^= h >> 15
    h = h * 2246822519 % 2**32
    h ^= h >> 13
    return (2 * h.astype(np.float64) / 2**32 - 1).astype(np.float32).reshape(shape)


def _released_name(path: tuple[str, ...]) -> str:
    return ".".join(path).replace("block_", "block.")


def _golden_leaf(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Fills one parameter in the released layout, then brings it to ours."""
    name = _released_name(path)
    if path[-1] == "weight_v":
        # released [out, in, k] (transposed convolutions: [in, out, k]) -> ours [k, in, out]
        width, features_in, features = shape
        if path[-2] == "conv_t1":
            return 0.2 * _fill(name, (features_in, features, width)).transpose(2, 0, 1)
        return 0.2 * _fill(name, (features, features_in, width)).transpose(2, 1, 0)
    values = _fill(name, shape)
    if path[-1] == "weight_g":
        return 0.8 + 0.1 * values
    return (0.5 if path[-1] in ("alpha", "beta") else 0.2) * values


@functools.cache
def _golden() -> tuple[vae.VAE, dict]:
    model = vae.VAE(TINY)
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 16, 2)), key), jax.random.key(0)
    )["params"]
    flat = traverse_util.flatten_dict(shapes)
    leaves = {path: _golden_leaf(path, leaf.shape) for path, leaf in flat.items()}
    return model, traverse_util.unflatten_dict(leaves)


def _summary(x: jax.Array) -> list[float]:
    """First four values, last, sum and L2 norm in the released [1, C, T] order."""
    flat = np.asarray(x[0]).T.ravel().astype(np.float64)
    return [*flat[:4], flat[-1], flat.sum(), np.sqrt((flat**2).sum())]


def test_encoding_reproduces_the_released_numbers():
    model, params = _golden()
    audio = _fill("audio", (1, 2, 163)).transpose(0, 2, 1)
    posterior = model.apply({"params": params}, audio, method="encode")
    # six decimals were printed; measured difference 1e-5 on the sum of 80 float32 values
    np.testing.assert_allclose(
        _summary(posterior.mean),
        [0.819144, -0.480325, -0.047350, 0.690903, 1.352631, -6.05408, 11.75991],
        rtol=2e-5,
        atol=2e-5,
    )
    np.testing.assert_allclose(
        _summary(posterior.std),
        [1.188544, 1.786770, 1.209727, 1.851878, 1.093052, 62.32967, 8.71915],
        rtol=2e-5,
        atol=2e-5,
    )


def test_decoding_reproduces_the_released_numbers():
    model, params = _golden()
    latents = _fill("z", (1, 4, 21)).transpose(0, 2, 1)
    audio = model.apply({"params": params}, latents, method="decode")
    np.testing.assert_allclose(
        _summary(audio),
        [0.189473, 1.151192, 0.374151, 1.625167, -0.159958, 342.25705, 21.94708],
        rtol=2e-5,  # six printed decimals
        atol=2e-5,
    )
