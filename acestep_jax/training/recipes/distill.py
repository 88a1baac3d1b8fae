"""Configuration of adversarial dynamic-shift distillation."""

import dataclasses
from typing import Literal

from acestep_jax.nn.lora import LoRA
from acestep_jax.training.config import Mesh, Model, Optimizer, Run, Samples, require
from acestep_jax.training.recipes import toys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gan:
    """The adversarial part of a distillation."""

    # latent: ConvNeXt on noised latents; features: heads on hidden states of a DiT
    discriminator: Literal["none", "latent", "features"] = "latent"
    loss: Literal["nonsaturating", "hinge", "relativistic"] = "relativistic"  # ops.distill
    weight: float = 3e-2  # of the generator's loss, beside the distribution-matching loss
    contrastive_weight: float = 0.5  # of "right prompt above wrong prompt"; 0: none
    # What counts as real: recorded songs, or the guided teacher's own, which need no recordings
    real: Literal["songs", "teacher"] = "songs"
    cached_batches: int = 256  # batches of the teacher's songs, with real=teacher
    r1: Literal["approximate", "exact"] = "approximate"  # from a nearby point, or the derivative
    r1_weight: float = 1.0  # of |D(x) - D(x + sigma n)|^2 / sigma^2, or its limit |grad D|^2
    r1_sigma: float = 0.05  # size of that perturbation
    level_law: Literal["uniform", "log_snr"] = "uniform"  # level that real and fake are noised to
    widths: tuple[int, ...] = (128, 256, 384)  # latent: channels a stage; features: the first
    blocks: int = 2  # ConvNeXt blocks a stage or head
    layer_scale: float = 1e-6  # initial size of residual branches
    layers: tuple[int, ...] = ()  # features: DiT layers tapped, counted from 0
    features_of: Literal["teacher", "fake"] = "teacher"  # features: whose hidden states

    def __post_init__(self) -> None:
        require(
            self.discriminator != "features" or bool(self.layers),
            "gan.discriminator=features needs gan.layers, the DiT layers to tap.",
        )
        require(
            self.r1 == "approximate" or self.discriminator != "features",
            "gan.r1=exact differentiates the whole DiT twice with discriminator=features; use "
            "r1=approximate there.",
        )
        require(
            self.cached_batches > 0, f"gan.cached_batches={self.cached_batches} must be positive."
        )
        require(self.r1_sigma > 0, f"gan.r1_sigma={self.r1_sigma} must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmup:
    """What happens before distribution matching begins."""

    steps: int = 0  # iterations that fit the student to the teacher's guided end points
    updates: int = 8  # student updates on each batch of end points
    teacher_steps: int = 50  # guided Euler steps that make an end point
    student: Optimizer = Optimizer(b2=0.999)  # the optimizer of this phase
    critic_steps: int = 0  # iterations after that which train fake score and discriminator alone

    def __post_init__(self) -> None:
        for field in ("steps", "critic_steps"):
            require(getattr(self, field) >= 0, f"warmup.{field} must not be negative.")
        for field in ("updates", "teacher_steps"):
            require(getattr(self, field) > 0, f"warmup.{field} must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the report at the end compares."""

    num_items: int = 8  # held-out prompts
    teacher_steps: int = 50  # guided steps of the reference
    student_steps: tuple[int, ...] = (8, 4)  # unguided steps of student and undistilled teacher
    shift: float = 3.0  # of every grid
    num_players: int = 4  # items with sound in the report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(Run):
    """Adversarial dynamic-shift distillation (train/distill.py)."""

    samples: Samples = Samples(num_steps=8, shift=3.0, guidance_scale=1.0)  # of the student
    model: Model = Model()  # the teacher; student and fake score start from it
    form: Literal["full", "lora"] = "full"  # what is trained of both: all weights, or adapters
    adapter: LoRA = LoRA(rank=64, alpha=64.0, dropout=0.0)  # of the student, with form=lora
    fake_adapter: LoRA = LoRA(rank=64, alpha=64.0, dropout=0.0)  # of the fake score: no smaller
    student: Optimizer = Optimizer(peak_lr=1e-4, b2=0.999, ema_decay=0.999)
    fake: Optimizer = Optimizer(peak_lr=3e-4, b2=0.999)
    discriminator: Optimizer = Optimizer(peak_lr=3e-4, b1=0.0, b2=0.99)
    critic_steps: int = 5  # critic updates a student update; with fewer, the fake score lags
    guidance_scale: float = 4.0  # guidance the student absorbs
    guidance_rule: Literal["cfg", "apg"] = "cfg"  # plain, or projected across the conditional
    matching_weight: float = 1.0  # of the matching term; 0: guidance alone, which drifts
    decoupled: bool = True  # a noise level for each term; false: one for both (DMD2)
    shift_law: Literal["1", "2", "3", "joint", "continuous"] = "joint"  # of each item's grid
    step_law: str = "8"  # steps of the student's grid: "8", "4,8" or "4-8"
    # What the student's training states are: its own ODE states, its own re-noised states, or real
    # latents noised forward (the exposure bias to compare with)
    backward: Literal["ode", "renoise", "forward"] = "ode"
    min_level: float = 0.02  # lowest re-noising level
    max_level: float = 0.98  # highest
    gan: Gan = Gan()
    warmup: Warmup = Warmup()
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.critic_steps > 0, f"critic_steps={self.critic_steps} must be positive.")
        require(
            0 < self.min_level < self.max_level <= 1,
            f"min_level={self.min_level} and max_level={self.max_level} must rise within (0, 1].",
        )
        for field in ("adapter", "fake_adapter"):
            dropout = getattr(self, field).dropout
            require(
                dropout == 0,
                f"{field}.dropout={dropout}: states are those of the sampler, which drops nothing; "
                "use 0.",
            )
        require(
            self.form == "full" or self.fake_adapter.rank >= self.adapter.rank,
            f"fake_adapter.rank={self.fake_adapter.rank} is below adapter.rank="
            f"{self.adapter.rank}: the fake score must be able to follow the student.",
        )
        before = self.warmup.steps + self.warmup.critic_steps
        require(
            before < self.num_steps,
            f"warmup takes {before} of num_steps={self.num_steps} iterations; none is left.",
        )


def toy_distillation(config: Distill) -> Distill:
    """Keeps a recipe's method and shrinks its sizes: four iterations of made-up songs, anywhere."""
    warmup = dataclasses.replace(config.warmup, steps=1, updates=1, teacher_steps=2, critic_steps=1)
    small = dataclasses.replace(config.adapter, rank=2)
    return dataclasses.replace(
        config,
        num_steps=4,
        critic_steps=1,
        mesh=Mesh(),
        model=dataclasses.replace(toys.MODEL, mask_padding=config.model.mask_padding),
        adapter=small,
        fake_adapter=small,
        gan=dataclasses.replace(config.gan, widths=(16, 24), blocks=1, cached_batches=2),
        warmup=warmup,
        evaluation=Evaluation(num_items=2, teacher_steps=2, student_steps=(2, 1), num_players=1),
        data=toys.DATA,
        log_every=1,
        save_every=2,
    )
