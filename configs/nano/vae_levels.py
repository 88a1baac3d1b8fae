"""Teaches the nano autoencoder to tell levels: its last 16 latents become those of mel bands.

Method:   train/vae.py from the weights of configs/nano/vae.py, with a term that ties the last
          channels to the levels of 16 mel bands; then the decoder alone against a discriminator.
          What a waveform's coefficients hide from a flow model, the beat before all, now stands in
          channels of its own (BUILD_NOTES.md, section 9).
Command:  python -m train.vae --config configs/nano/vae_levels.py    (after configs/nano/vae.py)
Cost:     2,100 steps of 2 x 0.68 s in 17 minutes on about two thirds of two cores.
Expect:   the last channels tell 87 % of the variance of the levels; SI-SDR 0.5 dB lower than
          before, mel distance 0.22 for 0.25 on recordings. The beat explains 28 % of the last
          channels, where it explained 4 % of all.
"""

import dataclasses

from acestep_jax.training.recipes.vae import TrainVAE, VAEPhase
from configs.nano import vae


def get_config(quick: bool = False) -> TrainVAE:
    """Describes the run; `quick` gives its toy form."""
    config = dataclasses.replace(
        vae.get_config(),
        name="nano_vae_levels",
        weights="runs/nano_vae/vae",
        num_steps=2100,
        phases=(
            VAEPhase(num_steps=1600, kl_weight=3e-4),
            VAEPhase(num_steps=500, adversarial_weight=0.1, matching_weight=5.0, decoder_only=True),
        ),
        level_channels=16,
        eval_every=400,
    )
    return dataclasses.replace(vae.quick_form(config), weights="") if quick else config
