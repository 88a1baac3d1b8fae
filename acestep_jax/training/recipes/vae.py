"""Configuration of the autoencoder's training."""

import dataclasses
from typing import Literal

from acestep_jax.nn.config import VAES, VAEConfig
from acestep_jax.training.config import Optimizer, Run, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEPhase:
    """A stretch of an autoencoder's training with one set of loss weights."""

    num_steps: int  # steps of the phase
    kl_weight: float = 1e-4  # of sum_c (mean^2 + std^2 - log std^2 - 1); 0 drops the term
    adversarial_weight: float = 0.0  # of -mean D(reconstruction)
    matching_weight: float = 0.0  # of the discriminator's feature matching
    decoder_only: bool = False  # leave the encoder, and so all latents, as they are

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"num_steps={self.num_steps} of a phase must be positive.")

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator is trained and followed."""
        return self.adversarial_weight > 0 or self.matching_weight > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainVAE(Run):
    """Reconstruction and adversarial training of the autoencoder (train/vae.py)."""

    vae: VAEConfig = VAES["nano"]  # sizes, without `weights`
    weights: str = ""  # start from these weights (folder, hub id, asset:<folder>); empty: random
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; parameters stay float32
    remat: bool = False  # recompute blocks in the backward pass
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of exported safetensors
    phases: tuple[VAEPhase, ...] = (VAEPhase(num_steps=1000),)  # in order; they make up num_steps
    # Groups of audio files, drawn equally often, each a glob pattern; empty: tones made on the
    # spot. A segment is data.num_frames long. Labels beside a file say of which split it is.
    audio: tuple[str, ...] = ("data/audio/own/*.flac", "data/audio/real/*.flac")
    track_seconds: float = 75.0  # of longer files only the middle is kept in memory
    unit_latents: bool = False  # export latents of unit variance on held-out audio
    held_out_every: int = 10  # of files without labels, these serve evaluation instead; 0: none
    held_out_frames: int = 51  # length of an evaluation clip
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64, 32)  # of the spectral loss
    floor: float = 1e-4  # of its magnitudes; noise at -80 dB
    level_channels: int = 0  # latents, from the last, that shall tell the levels of mel bands
    level_weight: float = 1.0  # of their squared error, in units of each band's variance
    a_weighting: bool = False  # weight its magnitudes by the ear's sensitivity
    waveform_weight: float = 2.0  # of |x - xhat| / |x|, root mean squares; fixes the phase
    convergence_weight: float = 1.0  # of the spectral convergence
    magnitude_weight: float = 1.0  # of the log-magnitude error
    growth_limit: float = 1.5  # stop if, without KL, a channel spreads so much further; 0: never
    discriminator_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)  # one scale each
    discriminator_filters: int = 64  # channels of its layers
    generator: Optimizer = Optimizer(peak_lr=1.5e-4, b1=0.8, b2=0.99, ema_decay=0.9999)
    discriminator: Optimizer = Optimizer(peak_lr=3e-4, b1=0.8, b2=0.99)

    def __post_init__(self) -> None:
        super().__post_init__()
        total = sum(phase.num_steps for phase in self.phases)
        require(
            total == self.num_steps,
            f"phases last {total} steps and num_steps={self.num_steps}; they must agree.",
        )
        require(self.held_out_every != 1, "held_out_every=1 leaves no file to train on.")

    def phase_at(self, step: int) -> VAEPhase:
        """Gives the phase of a step, counted from 0."""
        for phase in self.phases:
            if step < phase.num_steps:
                return phase
            step -= phase.num_steps
        raise ValueError(f"the phases end {step} steps earlier.")
