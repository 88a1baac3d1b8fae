"""What runs share: a frozen dataclass for each part of a configuration.

Each method adds its own in `recipes/`, one file a method. A config file is a function
`get_config(quick=False)` that returns one of those. The comment beside
a field is its help text on the command line, where `--set student.peak_lr=1e-5` sets any of them
(`cli.py`). Values are checked when the dataclass is built, before anything is compiled.
"""

import dataclasses
import re
from typing import Any, Literal

from acestep_jax.tasks.edits import TASKS


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
    # Share of the examples from each folder in `shards`; empty: every window equally often
    shard_weights: tuple[float, ...] = ()
    # (frames, lyric tokens, batch size) of each shape of batch, by rising length, in place of the
    # three fields above; a song goes whole into the smallest that holds it
    buckets: tuple[tuple[int, int, int], ...] = ()
    tasks: tuple[tuple[str, float], ...] = (("text2music", 1.0),)  # (task, weight)
    repaint_share: tuple[float, float] = (0.1, 0.9)  # shortest and longest span, of the clip
    timbre_share: float = 0.5  # chance of a timbre reference from elsewhere in the song
    metadata_dropout: float = 0.1  # chance that bpm, key or metre is left out of the prompt
    # Chance that bpm, key and metre alone tell an example: no caption, lyrics or timbre reference
    bare_share: float = 0.0
    start_at: Literal["anywhere", "chords"] = "anywhere"  # where clips begin, if chords are known
    word_times: bool = False  # tell when each token of the lyrics is sung (train/aligner.py)
    lyric_margin: float = 0.0  # most seconds around a clip whose lyrics its prompt has, too
    # What the shards hold ready and is taken from there: states (of whole-song prompts, by a frozen
    # text encoder), codes (of the sources of covers)
    precomputed: tuple[Literal["states", "codes"], ...] = ()
    max_bad_share: float = 0.01  # of the songs may be skipped as unreadable; 0 stops at the first

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"data.batch_size={self.batch_size} must be positive.")
        require(self.num_frames > 0, f"data.num_frames={self.num_frames} must be positive.")
        for name in ("timbre_share", "metadata_dropout", "bare_share", "max_bad_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name}={value} must lie in [0, 1].")
        self._check_mixture()

    def _check_mixture(self) -> None:
        for name, weights in (
            ("tasks", [w for _, w in self.tasks]),
            ("shard_weights", [*self.shard_weights] or [1]),
        ):
            require(
                min(weights, default=0) >= 0 and sum(weights) > 0,
                f"data.{name} takes weights of 0 or more, not all of them 0; got {weights}.",
            )
        names = [name for name, _ in self.tasks]
        require(len(names) == len(set(names)), f"data.tasks names a task twice: {names}.")
        for name in names:
            require(name in TASKS, f"data.tasks names {name!r}; the tasks are {', '.join(TASKS)}.")
        require(
            "states" not in self.precomputed or {n for n, w in self.tasks if w} == {"text2music"},
            "data.precomputed=states are those of text2music prompts; leave other tasks out.",
        )
        require(
            "states" not in self.precomputed or not self.bare_share,
            "data.precomputed=states are those of whole prompts; leave data.bare_share at 0.",
        )
        low, high = self.repaint_share
        require(
            0 < low <= high <= 1, f"data.repaint_share={self.repaint_share}; use 0 < a <= b <= 1."
        )
        for bucket in self.buckets:
            require(min(bucket) > 0, f"data.buckets has {bucket}; all three must be positive.")
        frames = [bucket[0] for bucket in self.buckets]
        require(
            frames == sorted(set(frames)),
            f"data.buckets have {frames} frames; list them by rising length, each once.",
        )


GROUPS: tuple[tuple[str, str], ...] = (
    (r"(^|/)(kernel|weight_v|lora_[ab])$", "decay"),
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
    schedule: Literal["constant", "cosine", "linear", "inverse"] = (
        "constant"  # after warm-up, to the last step
    )
    inverse_steps: int = 200_000  # n of inverse: peak_lr / sqrt(1 + step / n), which never ends
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
            require_pattern(pattern)


def require_pattern(pattern: str) -> None:
    """Refuses text that is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """What a round of samples to hear is made of; see `listen.py`."""

    num_items: int = 2  # songs, of the first held-out batch
    num_steps: int = 24  # Euler steps
    shift: float = 1.0  # of the time grid
    guidance_scale: float = 2.0  # 1 for distilled models

    def __post_init__(self) -> None:
        require(self.num_items > 0, f"samples.num_items={self.num_items} must be positive.")
        require(self.num_steps > 0, f"samples.num_steps={self.num_steps} must be positive.")


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
    samples: Samples = Samples()

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
    # Layouts of the exported model; diffusers takes silence latents of 15,000 frames alone
    export_layouts: tuple[Literal["official", "diffusers", "native"], ...] = ("official",)
    mask_padding: bool = True  # hide padded tokens and frames; false attends them, as the release


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
    "samples",
    "data.num_workers",
    "data.num_threads",
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
