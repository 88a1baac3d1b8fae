"""A pipeline too small to be musical and otherwise complete."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import units
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn import model
from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.vae import VAE
from acestep_jax.tasks import pipeline, tokens
from acestep_jax.tasks.settings import Settings
from tests import tiny

HOP = units.SAMPLES_PER_FRAME
FAST = Settings(steps=3, shift=2.0)
CHANNELS = tiny.CONFIG.audio_acoustic_hidden_dim


def fill(shapes):
    """Random parameters from shapes: no initialiser is compiled."""
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([0.2 * rng.standard_normal(x.shape, np.float32) for x in leaves])


@functools.cache
def pipe() -> pipeline.Pipeline:
    """A complete pipeline of four tasks, text to sound."""
    text = dataclasses.replace(tiny.TEXT_CONFIG, vocab_size=2176)
    config = dataclasses.replace(tiny.CONFIG, tasks=("text2music", "cover", "repaint", "lego"))
    networks = model.build_networks(config, text)
    vae = VAE(
        VAEConfig(
            encoder_hidden_size=2,
            downsampling_ratios=(32, 60),
            channel_multiples=(1, 1),
            decoder_channels=2,
            decoder_input_channels=CHANNELS,
        )
    )
    key = jax.random.key(0)
    return pipeline.Pipeline(
        networks=networks,
        params=fill(jax.eval_shape(lambda: model.init_params(networks, key))),
        vae=vae,
        vae_params=fill(jax.eval_shape(vae.init, key, jnp.zeros((1, HOP, 2)), key)["params"]),
        tokenizer=tokens.load_tokenizer(NANO_TOKENIZER),
        silence_latent=jnp.zeros((1, 750, CHANNELS)),
        settings=FAST,
    )
