"""The autoencoder: released numbers, lengths, folding and training."""

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


@functools.partial(jax.jit, static_argnames="method")
def _apply(params: dict, x: jax.Array, method: str) -> jax.Array:
    return vae.VAE(TINY).apply({"params": params}, x, method=method)


def _summary(x: jax.Array) -> list[float]:
    """First four values, last, sum and L2 norm in the released [1, C, T] order."""
    flat = np.asarray(x[0]).T.ravel().astype(np.float64)
    return [*flat[:4], flat[-1], flat.sum(), np.sqrt((flat**2).sum())]


def test_encoding_reproduces_the_released_numbers():
    _, params = _golden()
    audio = _fill("audio", (1, 2, 163)).transpose(0, 2, 1)
    posterior = _apply(params, audio, "encode")
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
    _, params = _golden()
    latents = _fill("z", (1, 4, 21)).transpose(0, 2, 1)
    audio = _apply(params, latents, "decode")
    np.testing.assert_allclose(
        _summary(audio),
        [0.189473, 1.151192, 0.374151, 1.625167, -0.159958, 342.25705, 21.94708],
        rtol=2e-5,  # six printed decimals
        atol=2e-5,
    )


# The autoencoder as a whole -------------------------------------------------------------------


def test_lengths_are_whole_frames():
    _, params = _golden()
    for samples in (8, 15, 16, 163):
        audio = jax.ShapeDtypeStruct((1, samples, 2), jnp.float32)
        posterior = jax.eval_shape(lambda x: _apply(params, x, "encode"), audio)
        assert posterior.mean.shape == (1, samples // 8, 4)
    latents = jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)
    assert jax.eval_shape(lambda x: _apply(params, x, "decode"), latents).shape == (2, 40, 2)


def test_folding_the_weight_norm_changes_nothing():
    # in float64: in float32 each processor rounds the sums over folded kernels in its own way
    _, params = _golden()
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        model, folded = vae.VAE(TINY, dtype=jnp.float64), vae.fold_weight_norm(params)
        audio = jax.random.normal(jax.random.key(0), (1, 64, 2), jnp.float64)
        rebuild = jax.jit(lambda p: model.apply({"params": p}, audio, jax.random.key(1))[0])
        plain, quick = rebuild(params), rebuild(folded)
    np.testing.assert_allclose(quick, plain, atol=1e-6)  # given back in float32
    assert not any("weight_v" in path for path in traverse_util.flatten_dict(folded))


def test_latents_can_be_rescaled_without_changing_the_sound():
    _, params = _golden()
    scale = jnp.array([0.5, 1.0, 2.0, 3.0])
    scaled = jax.jit(vae.scale_latents)(params, scale)
    audio = jax.random.normal(jax.random.key(0), (1, 64, 2))
    before, after = (_apply(p, audio, "encode") for p in (params, scaled))
    np.testing.assert_allclose(after.mean, before.mean / scale[None, None], atol=1e-5)
    sounds = (_apply(params, before.mean, "decode"), _apply(scaled, after.mean, "decode"))
    np.testing.assert_allclose(sounds[1], sounds[0], rtol=1e-4, atol=1e-4)  # measured 2e-5
    assert bool(jnp.all(after.std[..., 2:] < before.std[..., 2:]))  # by about the scale
    assert bool(jnp.all(after.std[..., :1] > before.std[..., :1]))


def test_rematerialised_blocks_have_the_same_gradient():
    model, params = _golden()
    audio = jax.random.normal(jax.random.key(0), (1, 64, 2))

    def loss(params, model):
        return jnp.mean(model.apply({"params": params}, audio, jax.random.key(1))[0] ** 2)

    plain = jax.jit(jax.grad(loss), static_argnums=1)(params, model)
    again = jax.jit(jax.grad(loss), static_argnums=1)(params, vae.VAE(TINY, remat=True))
    # another order of float32 sums; measured 1.5e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, again)


def test_bfloat16_products_stay_near_float32():
    _, params = _golden()
    audio = 0.3 * jax.random.normal(jax.random.key(0), (1, 64, 2))
    rough_model = vae.VAE(TINY, dtype=jnp.bfloat16)
    exact = _apply(params, audio, "encode").mean
    rough = jax.jit(lambda x: rough_model.apply({"params": params}, x, method="encode").mean)(audio)
    assert rough.dtype == jnp.float32
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.03  # measured 0.007; bfloat16 keeps 8 bits


def test_samples_spread_as_the_posterior_says():
    posterior = vae.Posterior(mean=jnp.full((1, 5000, 2), 3.0), std=jnp.full((1, 5000, 2), 0.5))
    sample = posterior.sample(jax.random.key(0))
    np.testing.assert_allclose(np.mean(sample), 3.0, atol=0.02)  # 4 standard errors of 1e4 draws
    np.testing.assert_allclose(np.std(sample), 0.5, atol=0.015)


def test_the_released_autoencoder_has_the_released_size():
    model = vae.VAE(VAES["vae"])
    audio = jnp.zeros((1, 1920, 2))
    shapes = jax.eval_shape(lambda key: model.init(key, audio, key), jax.random.key(0))["params"]

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(shapes["encoder"]) == 84_281_344
    assert count(shapes) == 168_695_426
    assert len(jax.tree.leaves(shapes)) == 365


def test_wrong_layouts_are_refused():
    model, params = _golden()
    with pytest.raises(ValueError, match=r"shape \(1, 2, 64\); encode reads \[B, W, 2\]"):
        model.apply({"params": params}, jnp.zeros((1, 2, 64)), method="encode")
    with pytest.raises(ValueError, match=r"decode reads \[B, T, 4\]"):
        model.apply({"params": params}, jnp.zeros((1, 8, 64)), method="decode")
