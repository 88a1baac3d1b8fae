"""Trains the nano autoencoder (2.8 M parameters) on our own songs and on licensed recordings.

Method:   train/vae.py: a lapped-transform start, reconstruction with Muon, then the decoder alone
          against a discriminator while the latents stay.
Command:  python -m train.vae --config configs/nano/vae.py
Data:     audio under data/audio/own and data/audio/real, made by the data scripts.
Cost:     0.39 s a step of the first phase on two quiet cores; the shipped weights took an hour of
          about two thirds of them, 5,400 steps of 2 x 0.68 s.
Expect:   on held-out songs of ours / recordings after the first phase: SI-SDR 4.5 / 4.3 dB, mel
          distance 0.262 / 0.259, spectral convergence 0.370 / 0.369, log magnitude 0.670 / 0.793;
          after the second: 4.4 / 4.1 dB, 0.261 / 0.246, 0.370 / 0.364, 0.674 / 0.782. What the
          decoder gains in texture it pays in waveform. Recordings have 3.8 dB at the lapped start,
          untrained; random parameters still -38 dB after 550 steps.
"""

import dataclasses

from acestep_jax.nn.config import VAES, VAEConfig
from acestep_jax.training.config import Data, Mesh, Optimizer
from acestep_jax.training.recipes.vae import TrainVAE, VAEPhase


def get_config(quick: bool = False) -> TrainVAE:
    """Describes the run; `quick` gives its toy form."""
    config = TrainVAE(
        name="nano_vae",
        vae=VAES["nano"],
        num_steps=5400,
        phases=(
            VAEPhase(num_steps=4500, kl_weight=3e-4),
            # the latents are settled: the decoder alone learns what magnitudes leave out
            VAEPhase(num_steps=900, adversarial_weight=0.1, matching_weight=5.0, decoder_only=True),
        ),
        data=Data(batch_size=2, num_frames=17),  # 0.68 s: longer than the encoder sees at once
        magnitude_weight=2.0,  # with 1, the waveform's larger gradient leaves the treble silent
        unit_latents=True,  # the flow model's noise has unit variance
        windows=(2048, 512, 128, 32),  # every other resolution of the release: half the cost
        floor=3e-4,  # -70 dB: the recordings are lossy, their upper octave is not worth bits
        generator=Optimizer(
            name="muon",
            peak_lr=1e-3,  # gains, biases, Snake
            muon_lr_ratio=8.0,  # 0.008 for the kernels; 0.02 forgets the lapped transform
            warmup_steps=40,
            schedule="cosine",
            final_lr_ratio=0.02,
            b1=0.8,
            b2=0.99,
            weight_decay=0.0,  # weight normalisation makes the scale of a kernel meaningless
            clip_norm=10.0,
            ema_decay=0.999,
        ),
        discriminator=Optimizer(peak_lr=3e-4, b1=0.8, b2=0.99),
        discriminator_windows=(2048, 512, 128),
        discriminator_filters=8,
        save_every=500,
        eval_every=900,
    )
    return quick_form(config) if quick else config


def quick_form(config: TrainVAE) -> TrainVAE:
    """Shrinks the run to two steps a phase, on tones made on the spot."""
    phases = tuple(dataclasses.replace(phase, num_steps=2) for phase in config.phases)
    return dataclasses.replace(
        config,
        num_steps=2 * len(phases),
        mesh=Mesh(),
        phases=phases,
        vae=VAEConfig(
            encoder_hidden_size=4,
            downsampling_ratios=(32,),
            channel_multiples=(2,),
            decoder_channels=4,
            decoder_input_channels=4,
        ),
        data=Data(batch_size=2, num_frames=16),
        audio=(),
        level_channels=2,
        held_out_every=4,
        held_out_frames=80,
        windows=(64,),
        discriminator_windows=(64,),
        discriminator_filters=2,
        log_every=1,
        save_every=1,
        eval_every=0,
    )
