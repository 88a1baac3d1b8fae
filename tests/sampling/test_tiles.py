"""Tiles cover every frame once, and equal the untiled map where the context suffices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.vae import VAE
from acestep_jax.sampling import tiles


@pytest.mark.parametrize(
    ("frames", "window", "context"), itertools.product((20, 21, 47, 100), (9, 20), (0, 2, 4))
)
def test_every_frame_is_kept_once_and_far_from_every_cut(frames, window, context):
    kept = []
    for start, low, high in tiles.plan_tiles(frames, window, context):
        assert low >= context or start == 0
        assert high <= window - context or start + window == frames
        kept += range(start + low, start + high)
    assert kept == list(range(frames))


@pytest.mark.parametrize(("window", "context"), [(8, 4), (30, 2), (8, -1)])
def test_a_plan_that_cannot_be_is_refused(window, context):
    with pytest.raises(ValueError, match="cannot cover 20"):
        tiles.plan_tiles(20, window, context)


VAE_SIZES = VAEConfig(
    encoder_hidden_size=4,
    downsampling_ratios=(2, 2),
    channel_multiples=(1, 1),
    decoder_channels=4,
    decoder_input_channels=4,
)


@pytest.fixture(scope="module")
def autoencoder():
    vae = VAE(VAE_SIZES)
    key = jax.random.key(0)
    params = jax.jit(vae.init)(key, jnp.zeros((1, 64, 2)), key)["params"]
    encode = jax.jit(lambda x: vae.apply({"params": params}, x, method="encode").mean)
    decode = jax.jit(lambda z: vae.apply({"params": params}, z, method="decode"))
    return encode, decode


def test_a_long_song_is_encoded_and_decoded_in_tiles_as_it_is_whole(autoencoder):
    encode, decode = autoencoder
    hop, window, context = VAE_SIZES.hop, 90, 36
    # the decoder hears 3 + (3 + 39 + 78) / 4 + 1 frames to either side, the encoder less
    audio = jax.random.normal(jax.random.key(1), (2, 150 * hop + 3, 2))
    options = {"windows": [window], "context": context}
    latents = tiles.map_tiles(encode, audio, rate_in=hop, **options)
    np.testing.assert_allclose(latents, encode(audio[:, : 150 * hop]), atol=2e-5)
    decoded = tiles.map_tiles(decode, latents, rate_out=hop, **options)
    np.testing.assert_allclose(decoded, decode(latents), atol=2e-5)
    narrow = tiles.map_tiles(decode, latents, rate_out=hop, windows=[90], context=0)
    assert np.abs(narrow - decoded).max() > 1e-3  # without context the cuts are heard


@pytest.mark.parametrize(
    ("frames", "window"), [(127, None), (128, 128), (250, 192), (1500, 448), (15_000, 448)]
)
def test_the_window_with_the_least_to_compute_is_chosen(frames, window):
    assert tiles.choose_window(frames, tiles.WINDOWS, tiles.CONTEXT) == window


def test_the_context_exceeds_what_the_released_autoencoder_hears():
    """Changing a latent changes no sample that lies `CONTEXT` frames or more away."""
    vae = VAE(VAEConfig(encoder_hidden_size=2, decoder_channels=2, decoder_input_channels=4))
    key, frames = jax.random.key(0), 48
    shapes = jax.eval_shape(vae.init, key, jnp.zeros((1, 1920, 2)), key)["params"]
    params = jax.tree.map(lambda x: 0.3 * np.ones(x.shape, np.float32), shapes)
    latents = np.zeros((2, frames, 4), np.float32)
    latents[1, frames // 2] = 1.0
    audio = vae.apply({"params": params}, latents, method="decode")
    changed = np.abs(audio[1] - audio[0]).max(axis=-1).reshape(frames, -1).max(axis=-1) > 0
    assert 3 <= frames // 2 - np.argmax(changed) < tiles.CONTEXT
    assert 3 <= frames - np.argmax(changed[::-1]) - 1 - frames // 2 < tiles.CONTEXT
