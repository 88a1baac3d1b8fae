"""A complete ACE-Step so small that a test compiles it in seconds: the code of the 2B model."""

import functools

import jax
import jax.numpy as jnp

from acestep_jax.nn import model
from acestep_jax.nn.config import ModelConfig, Qwen3Config

CONFIG = ModelConfig(
    model_version="base",
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_lyric_encoder_hidden_layers=2,
    num_timbre_encoder_hidden_layers=1,
    num_attention_pooler_hidden_layers=1,
    sliding_window=3,
    text_hidden_dim=16,
    timbre_hidden_dim=4,
    timbre_fix_frame=6,
    audio_acoustic_hidden_dim=4,
    in_channels=12,
    fsq_dim=24,
    fsq_input_levels=(5, 5, 5),
)
TEXT_CONFIG = Qwen3Config(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)


@functools.cache
def networks() -> model.Networks:
    """The modules."""
    return model.build_networks(CONFIG, TEXT_CONFIG)


@functools.cache
def params() -> dict:
    """Random parameters, none of them zero or one, filled from shapes: no init runs."""
    shapes = jax.eval_shape(lambda: model.init_params(networks(), jax.random.key(0)))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return tree.unflatten(
        [0.2 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )


def conditions(batch: int, frames: int, tokens: int = 5) -> tuple[jax.Array, jax.Array]:
    """Random condition tokens [B, L, D] and context [B, T, 2C]."""
    keys = jax.random.split(jax.random.key(1), 2)
    width, channels = CONFIG.encoder.width, CONFIG.audio_acoustic_hidden_dim
    return (
        jax.random.normal(keys[0], (batch, tokens, width)),
        jnp.concatenate(
            [
                jax.random.normal(keys[1], (batch, frames, channels)),
                jnp.ones((batch, frames, channels)),
            ],
            axis=-1,
        ),
    )
