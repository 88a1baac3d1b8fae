"""Configuration of training the planner."""

import dataclasses
from typing import Literal

from acestep_jax.nn.config import PLANNERS
from acestep_jax.nn.lora import LoRA
from acestep_jax.training.config import Data, Mesh, Optimizer, Run, require
from acestep_jax.training.recipes import toys


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannerModel:
    """Which planner is trained, and where it starts; folders, hub ids or asset:<folder>."""

    preset: str = "planner_nano"  # sizes of random weights: a name in nn.config.PLANNERS
    weights: str = ""  # a planner to go on from; empty: see `plain`
    plain: str = ""  # a Qwen3 without audio tokens, to be extended by them; empty: random weights
    tokenizer: str = ""  # folder with tokenizer.json; empty: beside the weights, or the nano one
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; parameters stay float32
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of exported safetensors
    remat: bool = False  # recompute layers in the backward pass

    def __post_init__(self) -> None:
        require(
            self.preset in PLANNERS,
            f"model.preset={self.preset!r}; the planners are {', '.join(PLANNERS)}.",
        )
        require(
            not (self.weights and self.plain),
            "model.weights and model.plain are both given; start from one of them.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chats:
    """How conversations are made of songs (data/chat.py)."""

    length: int = 512  # tokens a row; conversations are packed into rows
    # (task, weight): generate, understand, inspire, format
    mixture: tuple[tuple[str, float], ...] = (
        ("generate", 4.0),
        ("understand", 3.0),
        ("inspire", 1.5),
        ("format", 1.5),
    )
    seconds: tuple[int, int] = (10, 30)  # shortest and longest clip
    no_input: float = 0.1  # chance that the user's text becomes NO USER INPUT
    no_thought: float = 0.1  # chance that a song has neither user's text nor thought
    no_caption: float = 0.1  # chance that a song is asked for by lyrics alone
    no_lyrics: float = 0.1  # chance that it is asked for without lyrics
    few_fields: float = 0.1  # chance that the thought lacks caption and language
    retold: float = 0.0  # chance of another key and tempo, where no codes are read
    jitter: float = 0.0  # chance that a code that is listened to moves to a neighbour
    levels: tuple[int, ...] = ()  # of the tokenizer's digits, as in its fsq_input_levels

    def __post_init__(self) -> None:
        known = ("generate", "understand", "inspire", "format")
        for name, weight in self.mixture:
            require(name in known, f"chats.mixture names {name!r}; tasks are {', '.join(known)}.")
            require(weight >= 0, f"chats.mixture gives {name!r} a negative weight.")
        require(sum(w for _, w in self.mixture) > 0, "chats.mixture has no positive weight.")
        low, high = self.seconds
        require(10 <= low <= high <= 600, f"chats.seconds={self.seconds}; use 10 <= a <= b <= 600.")
        require(
            not self.jitter or bool(self.levels),
            "chats.jitter needs chats.levels, the tokenizer's fsq_input_levels.",
        )
        dropped = ("no_input", "no_thought", "no_caption", "no_lyrics", "few_fields")
        for name in (*dropped, "retold", "jitter"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"chats.{name}={value} must lie in [0, 1].")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlanner(Run):
    """Multi-task supervised training of the planner (train/planner.py)."""

    model: PlannerModel = PlannerModel()
    chats: Chats = Chats()
    # Rows a step are data.batch_size, songs those of data.shards
    optimizer: Optimizer = Optimizer(
        peak_lr=1e-5, warmup_steps=100, schedule="cosine", b2=0.95, weight_decay=0.1
    )
    lora: bool = False  # train adapters, and merge them where the planner is exported
    adapter: LoRA = LoRA(rank=16, alpha=32.0, dropout=0.0)
    code_weight: float = 1.0  # of the mean over codes, beside the mean over words
    loss_chunk: int = 4096  # tokens whose logits are held at once
    eval_batches: int = 4  # batches of the held-out split an evaluation averages

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.code_weight >= 0, f"code_weight={self.code_weight} must not be negative.")
        require(self.loss_chunk > 0, f"loss_chunk={self.loss_chunk} must be positive.")


def toy_planner(config: TrainPlanner) -> TrainPlanner:
    """Shrinks a run to two steps on made-up songs and a random planner."""
    return dataclasses.replace(
        config,
        num_steps=2,
        mesh=Mesh(),
        model=PlannerModel(preset="planner_toy"),
        chats=dataclasses.replace(config.chats, length=384, seconds=(10, 12)),
        data=Data(shards="synthetic", batch_size=2),
        optimizer=toys.OPTIMIZER,
        eval_batches=1,
        loss_chunk=256,
        log_every=1,
    )
