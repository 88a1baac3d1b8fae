"""Trains the nano autoencoder (2.8 M parameters) on our own songs and on licensed recordings.

Method:   train/vae.py; reconstruction with Muon, then a short adversarial phase for the decoder.
Command:  python -m train.vae --config configs/nano/vae.py
Data:     make data (our songs and the recordings under data/audio).
"""

import dataclasses

from acestep_jax.nn.config import VAES, VAEConfig
from acestep_jax.training.config import Data, Optimizer, TrainVAE, VAEPhase


def get_config(quick: bool = False) -> TrainVAE:
    """Describes the run; `quick` gives its toy form."""
    config = TrainVAE(
        name="nano_vae",
        vae=VAES["nano"],
        num_steps=6000,
        phases=(
            VAEPhase(num_steps=5000, kl_weight=3e-4),
            # the latents are settled: the decoder alone learns what magnitudes leave out
            VAEPhase(
                num_steps=1000, adversarial_weight=0.1, matching_weight=5.0, decoder_only=True
            ),
        ),
        data=Data(batch_size=2, num_frames=17),  # 0.68 s: longer than the encoder sees at once
        windows=(2048, 512, 128, 32),  # every other resolution of the release: half the cost
        floor=3e-4,  # -70 dB: the recordings are lossy, their upper octave is not worth bits
        generator=Optimizer(
            name="muon",
            peak_lr=1e-3,  # gains, biases, Snake
            muon_lr_ratio=20.0,  # 0.02 for the kernels
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
        eval_every=1000,
    )
    return quick_form(config) if quick else config


def quick_form(config: TrainVAE) -> TrainVAE:
    """Shrinks the run to four steps, two a phase, on tones made on the spot."""
    phases = tuple(dataclasses.replace(phase, num_steps=2) for phase in config.phases)
    return dataclasses.replace(
        config,
        num_steps=4,
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
        held_out_every=4,
        held_out_frames=80,
        windows=(64,),
        discriminator_windows=(64,),
        discriminator_filters=2,
        log_every=1,
        save_every=1,
        eval_every=0,
    )
