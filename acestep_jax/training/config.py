"""What a run is: one frozen dataclass a method, and the parts that methods share.

A config file is a function `get_config(quick=False)` that returns one of these. The comment beside
a field is its help text on the command line, where `--set student.peak_lr=1e-5` sets any of them
(`cli.py`). Values are checked when the dataclass is built, before anything is compiled.
"""

import dataclasses
import re
from typing import Any, Literal

from acestep_jax.nn.config import VAES, VAEConfig


def require(condition: bool, message: str) -> None:
    """Refuses a configuration.

    Raises:
      ValueError: with `message`, unless `condition` holds.
    """
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices each kind of parallelism spans; see `mesh.py`.

    The product is the number of devices used. One axis may be -1: all devices that are left.
    """

    data: int = 1  # copies of the model; each sees its share of the batch
    fsdp: int = (
        1  # parameters and optimizer state in shards, gathered when needed; shares the batch
    )
    tensor: int = 1  # heads and MLP channels in shards
    sequence: int = 1  # latent frames in shards, for long songs

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for axis, size in sizes.items():
            require(size == -1 or size > 0, f"mesh.{axis}={size}; use a size of 1 or more, or -1.")
        free = [axis for axis, size in sizes.items() if size == -1]
        require(len(free) <= 1, f"mesh axes {free} are all -1; only one can take what is left.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where examples come from and how they are cut; read by `acestep_jax.data`."""

    shards: str = ""  # folder or glob of ArrayRecord shards; empty: the ones embedded here
    batch_size: int = 16  # examples a step, over all devices and processes
    num_frames: int = 128  # length of a training clip in latent frames (25 a second)
    text_tokens: int = 96  # room for the caption prompt; the release gives 256
    lyric_tokens: int = 64  # room for the lyric prompt; the release gives 2048
    timbre_frames: int = 128  # length of the timbre reference; the release takes 750
    num_workers: int = 0  # worker processes that decode; 0 decodes in threads of this process
    num_threads: int = 0  # reading threads a worker; 0 reads in line

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"data.batch_size={self.batch_size} must be positive.")
        require(self.num_frames > 0, f"data.num_frames={self.num_frames} must be positive.")


GROUPS: tuple[tuple[str, str], ...] = (
    (r"(^|/)(kernel|weight_v)$", "decay"),
    # Tables looked up or added, gains, biases: AdamW without decay, whatever the optimizer
    (r"(^|/)(weight|bias|scale|weight_g|alpha|beta|embed_tokens|embedding|lm_head)$", "plain"),
    (r"(^|/)(scale_shift_table|special_tokens?|null_condition)$", "plain"),
)
"""Which parameters are decayed (and orthogonalised by Muon); the first matching pattern decides."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How one network's parameters follow their gradients; built by `optim.make_optimizer`."""

    name: Literal["adamw", "muon"] = (
        "adamw"  # muon: matrices by orthogonalised momentum, rest adamw
    )
    peak_lr: float = 1e-4  # learning rate after warm-up
    warmup_steps: int = 0  # linear rise from zero
    schedule: Literal["constant", "cosine", "linear"] = (
        "constant"  # after warm-up, to the last step
    )
    final_lr_ratio: float = 0.0  # where cosine and linear end, as a share of peak_lr
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.95  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.01  # decoupled; of the parameters that `groups` sends to "decay"
    clip_norm: float = 1.0  # largest global norm of a gradient; 0 never clips
    ema_decay: float = 0.0  # decay of the average of the parameters; 0 keeps no average
    groups: tuple[tuple[str, str], ...] = GROUPS  # (path pattern, decay | plain | frozen), in order
    frozen: tuple[str, ...] = ()  # path patterns of parameters that stay as they are
    muon_lr_ratio: float = 10.0  # learning rate of Muon's matrices over adamw's peak_lr

    def __post_init__(self) -> None:
        require(self.peak_lr >= 0, f"peak_lr={self.peak_lr} must not be negative.")
        require(self.warmup_steps >= 0, f"warmup_steps={self.warmup_steps} must not be negative.")
        require(0 <= self.ema_decay < 1, f"ema_decay={self.ema_decay} must lie in [0, 1).")
        require(self.clip_norm >= 0, f"clip_norm={self.clip_norm}; use 0 to never clip.")
        for pattern, group in self.groups:
            require(
                group in ("decay", "plain", "frozen"),
                f"groups sends {pattern!r} to {group!r}; use decay, plain or frozen.",
            )
        for pattern in (*self.frozen, *(pattern for pattern, _ in self.groups)):
            _require_pattern(pattern)


def _require_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What every run has, whatever its method; methods inherit from it."""

    name: str  # names the run and its default folder
    workdir: str = ""  # folder of the run; empty: runs/<name>
    seed: int = 0  # of parameters, noise and batches
    num_steps: int = 1000  # train until this many steps are done
    log_every: int = 10  # steps between lines of metrics
    save_every: int = 1000  # steps between checkpoints; one more is saved at the end
    eval_every: int = 0  # steps between evaluations; 0: only at the end
    listen_every: int = 0  # steps between rounds of samples to hear; 0: only at the end
    keep: int = 2  # checkpoints kept, the newest ones
    keep_period: int = 0  # besides, keep every checkpoint whose step this divides; 0: none
    profile_start: int = -1  # first step of a profiler trace; -1: none
    profile_steps: int = 3  # steps traced
    mesh: Mesh = Mesh()
    data: Data = Data()

    def __post_init__(self) -> None:
        require(
            bool(re.fullmatch(r"[\w.\-]+", self.name)), f"name={self.name!r} cannot be a folder."
        )
        for field in ("num_steps", "log_every", "save_every", "keep"):
            value = getattr(self, field)
            require(value > 0, f"{field}={value} must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Which networks a run computes with, and where their weights come from; see `models.py`."""

    preset: str = "nano"  # sizes without `weights`: a name in nn.config.MODELS
    text_preset: str = "nano"  # sizes without `text_weights`: a name in nn.config.TEXT_ENCODERS
    weights: str = ""  # diffusion package: folder, hub id or asset:<folder>; empty: random weights
    text_weights: str = ""  # text encoder: the same
    vae_weights: str = ""  # autoencoder, for reports: the same; empty: reports without sound
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; parameters stay float32
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"  # that frozen networks are kept in
    remat: bool = False  # recompute blocks in the backward pass
    attention: str = "auto"  # an implementation of ops.attention
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of exported safetensors
    mask_padding: bool = True  # hide padded tokens and frames; false attends them, as the release


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainDiT(Run):
    """Flow matching of the DiT and its encoders (train/dit.py)."""

    model: Model = Model()
    optimizer: Optimizer = Optimizer(peak_lr=3e-4, warmup_steps=500, schedule="cosine")
    # Patterns over the names of the parts: dit, condition_encoder, null_condition, text_encoder,
    # tokenizer, detokenizer
    trained: tuple[str, ...] = ("^dit$", "^condition_encoder$", "^null_condition$")  # trained parts
    time_law: Literal["max2", "single", "uniform"] = "max2"  # training times; max2 as the release
    condition_dropout: float = 0.15  # chance that an item trains the null condition
    masked_loss: bool = False  # leave padded frames out of the loss; the release counts them
    covers: bool = False  # pass sources of covers through the 5 Hz codes (a trained tokenizer)
    eval_batches: int = 4  # batches of the held-out split an evaluation averages

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.condition_dropout < 1,
            f"condition_dropout={self.condition_dropout} must lie in [0, 1).",
        )
        for pattern in self.trained:
            _require_pattern(pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gan:
    """The adversarial part of a distillation."""

    # latent: ConvNeXt on noised latents; features: heads on hidden states of a DiT
    discriminator: Literal["none", "latent", "features"] = "latent"
    loss: Literal["nonsaturating", "hinge", "relativistic"] = "relativistic"  # ops.distill
    weight: float = 3e-2  # of the generator's loss, beside the distribution-matching loss
    contrastive_weight: float = 0.5  # of "right prompt above wrong prompt"; 0: none
    r1_weight: float = 1.0  # of |D(x) - D(x + sigma n)|^2 / sigma^2
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

    model: Model = Model()  # the teacher; student and fake score start from it
    student: Optimizer = Optimizer(peak_lr=1e-4, b2=0.999, ema_decay=0.999)
    fake: Optimizer = Optimizer(peak_lr=3e-4, b2=0.999)
    discriminator: Optimizer = Optimizer(peak_lr=3e-4, b1=0.0, b2=0.99)
    critic_steps: int = 5  # critic updates a student update; with fewer, the fake score lags
    guidance_scale: float = 4.0  # guidance the student absorbs
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
        before = self.warmup.steps + self.warmup.critic_steps
        require(
            before < self.num_steps,
            f"warmup takes {before} of num_steps={self.num_steps} iterations; none is left.",
        )


def toy_distillation(config: Distill) -> Distill:
    """Keeps a recipe's method and shrinks its sizes: four iterations of made-up songs, anywhere."""
    warmup = dataclasses.replace(config.warmup, steps=1, updates=1, teacher_steps=2, critic_steps=1)
    return dataclasses.replace(
        config,
        num_steps=4,
        critic_steps=1,
        mesh=Mesh(),
        model=Model(mask_padding=config.model.mask_padding),
        gan=dataclasses.replace(config.gan, widths=(16, 24), blocks=1),
        warmup=warmup,
        evaluation=Evaluation(num_items=2, teacher_steps=2, student_steps=(2, 1), num_players=1),
        data=Data(shards="synthetic", batch_size=2, num_frames=16, timbre_frames=16),
        log_every=1,
        save_every=2,
    )


FREE_FIELDS = (
    "workdir",
    "log_every",
    "save_every",
    "eval_every",
    "listen_every",
    "keep",
    "keep_period",
    "profile_start",
    "profile_steps",
    "mesh",
)
"""Fields that may change when a run resumes: they do not touch what it computes."""


def differing_fields(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Lists the dotted names of the leaves in which two nested dictionaries differ."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return [] if left == right else [prefix.rstrip(".")]
    names = list(left) + [name for name in right if name not in left]
    missing = object()
    return [
        difference
        for name in names
        for difference in differing_fields(
            left.get(name, missing), right.get(name, missing), f"{prefix}{name}."
        )
    ]


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
    phases: tuple[VAEPhase, ...] = (VAEPhase(num_steps=1000),)  # in order; they make up num_steps
    # Groups of audio files, drawn equally often, each a glob pattern; empty: tones made on the
    # spot. A segment is data.num_frames long.
    audio: tuple[str, ...] = ("data/audio/own/*.flac", "data/audio/real/*.flac")
    track_seconds: float = 75.0  # of longer files only the middle is kept in memory
    unit_latents: bool = False  # export latents of unit variance on held-out audio
    held_out_every: int = 10  # every so many files of a group serve evaluation instead; 0: none
    held_out_frames: int = 51  # length of an evaluation clip
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64, 32)  # of the spectral loss
    floor: float = 1e-4  # of its magnitudes; noise at -80 dB
    a_weighting: bool = False  # weight its magnitudes by the ear's sensitivity
    waveform_weight: float = 2.0  # of |x - xhat| / |x|, root mean squares; fixes the phase
    convergence_weight: float = 1.0  # of the spectral convergence
    magnitude_weight: float = 1.0  # of the log-magnitude error
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
