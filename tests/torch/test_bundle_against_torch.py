"""A folder of ours opened as a whole by diffusers' pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline

from acestep_jax import units, weights
from acestep_jax.nn.config import VAEConfig
from acestep_jax.tasks import loading
from acestep_jax.weights import convert, names

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # theirs, not ours, to mend
]


def test_diffusers_opens_our_folder_and_makes_a_song(tmp_path):
    package = weights.load_model(loading.NANO)
    repeats = -(-units.MAX_FRAMES // package.silence_latent.shape[1])
    silence = jnp.tile(package.silence_latent, (1, repeats, 1))[:, : units.MAX_FRAMES]
    package = weights.Model(package.config, package.params, silence, package.source)
    # their autoencoder's encoder is as wide as its latents are many (BUILD_NOTES, decisions)
    config = VAEConfig(encoder_hidden_size=128, decoder_channels=4, decoder_input_channels=64)
    rng = np.random.default_rng(0)
    shapes = convert.shapes(names.vae_entries(config))
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), shapes
    )
    vae = weights.Network(config, params)
    text = loading.NANO.parent / "text_encoder"
    weights.save_pipeline(tmp_path, package, vae, weights.load_qwen3(text), text)
    # the folder keeps the text encoder in bfloat16, as the release does; a CPU mixes no types
    pipe = AceStepPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert pipe.scheduler.config.num_train_timesteps == 1
    sound = pipe(prompt="a waltz", lyrics="", audio_duration=2.0, num_inference_steps=1).audios
    assert sound.shape[-1] == 2 * units.SAMPLE_RATE
