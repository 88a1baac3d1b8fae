"""The lapped-transform start: perfect reconstruction, and a waveform that passes untrained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import lapped, vae
from acestep_jax.nn.config import VAEConfig
from acestep_jax.ops import convolution, stft

SMALL = VAEConfig(
    encoder_hidden_size=8,
    downsampling_ratios=(2, 4),
    channel_multiples=(2, 8),
    decoder_channels=8,
    decoder_input_channels=16,
)


@pytest.mark.parametrize("stride", [2, 4, 6, 10])
def test_synthesis_undoes_analysis(stride):
    kernel = lapped.cosine_kernel(stride)[:, None]  # one channel in, its bands out
    signal = jax.random.normal(jax.random.key(0), (1, 20 * stride, 1))
    bands = convolution.strided_conv(signal, kernel, stride=stride, padding=stride // 2)
    back = convolution.transposed_conv(
        bands, kernel.transpose(0, 2, 1), stride=stride, padding=stride // 2
    )
    inner = slice(stride, -stride)  # at the ends half of the overlap is missing
    np.testing.assert_allclose(back[:, inner], signal[:, inner], atol=1e-5)


def test_a_waveform_passes_before_any_training():
    key, audio_key = jax.random.split(jax.random.key(0))
    time = jnp.arange(512)[None, :, None]
    pitch = jax.random.uniform(audio_key, (24, 1, 2), minval=0.02, maxval=0.15)
    audio = 0.3 * jnp.sin(pitch * time)
    model = vae.VAE(SMALL)
    random = jax.jit(model.init)(key, audio[:1], key)["params"]
    start = jax.jit(lapped.start_as_lapped_transform, static_argnums=0)
    started = start(SMALL, random, audio[:16], key)

    @jax.jit
    def quality(params):
        latents = model.apply({"params": params}, audio[16:], method="encode").mean
        decoded = model.apply({"params": params}, latents, method="decode")
        return jnp.mean(stft.si_sdr(decoded, audio[16:])), jnp.std(latents, axis=(0, 1))

    before, _ = quality(random)
    after, scale = quality(started)
    assert before < -10 < 4 < after  # measured -26.5 and 5.8 dB
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, random)
    # unit scale on the clips it was chosen from: near it on others
    assert 0.5 < np.median(scale[:12]) < 2


def test_a_mono_autoencoder_is_refused():
    mono = VAEConfig(audio_channels=1)
    with pytest.raises(ValueError, match="1 channels; this needs two"):
        lapped.start_as_lapped_transform(mono, {}, jnp.zeros((1, 8, 1)), jax.random.key(0))
