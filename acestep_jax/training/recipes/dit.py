"""Configuration of flow-matching training."""

import dataclasses
from typing import Literal

from acestep_jax.training.config import (
    Data,
    Mesh,
    Model,
    Optimizer,
    Run,
    require,
    require_pattern,
)
from acestep_jax.training.recipes import toys


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTPhase:
    """A stretch of flow-matching training with data of its own: songs, tasks, lengths, batches."""

    num_steps: int  # steps of the phase
    data: Data | None = None  # what it trains on; none: the run's own `data`

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"num_steps={self.num_steps} of a phase must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanFlow:
    """Training of average velocities beside the velocity itself (ops/meanflow.py)."""

    share: float = 0.0  # of items that span an interval, r < t; 0 is plain flow matching
    power: float = 1.0  # p of the weight 1 / (error + offset)^p
    offset: float = 1e-3  # c of the weight

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"mean_flow.share={self.share} must lie in [0, 1].")
        require(self.power >= 0, f"mean_flow.power={self.power} must not be negative.")
        require(self.offset > 0, f"mean_flow.offset={self.offset} must be positive.")

    @property
    def on(self) -> bool:
        """Whether any item spans an interval."""
        return self.share > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainDiT(Run):
    """Flow matching of the DiT and its encoders (train/dit.py)."""

    model: Model = Model()
    optimizer: Optimizer = Optimizer(peak_lr=3e-4, warmup_steps=500, schedule="cosine")
    # Patterns over the names of the parts: dit, condition_encoder, null_condition, text_encoder,
    # tokenizer, detokenizer
    trained: tuple[str, ...] = ("^dit$", "^condition_encoder$", "^null_condition$")  # trained parts
    straight_start: bool = False  # begin a DiT without weights as a straight line (nn/straight.py)
    phases: tuple[DiTPhase, ...] = ()  # in order; they make up num_steps. Empty: one, of `data`
    # Training times: max2 as the release; turbo those at which its distilled model is sampled
    time_law: Literal["max2", "single", "uniform", "turbo"] = "max2"
    mean_flow: MeanFlow = MeanFlow()
    condition_dropout: float = 0.15  # chance that an item trains the null condition
    # (how many of the last channels, weight beside the others' 1); (0, 1.0) weighs all alike
    emphasis: tuple[int, float] = (0, 1.0)
    masked_loss: bool = False  # leave padded frames out of the loss; the release counts them
    covers: bool = False  # pass sources of covers through the 5 Hz codes (a trained tokenizer)
    eval_batches: int = 4  # batches of the held-out split an evaluation averages
    eval_tasks: tuple[str, ...] = ()  # measure these tasks one by one, besides the run's mixture
    eval_prompts: bool = False  # measure, besides, without condition and with a neighbour's

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.condition_dropout < 1,
            f"condition_dropout={self.condition_dropout} must lie in [0, 1).",
        )
        count, weight = self.emphasis
        require(
            count >= 0 and weight > 0,
            f"emphasis={self.emphasis} must be a count of 0 or more and a positive weight.",
        )
        require(
            not (count and self.mean_flow.on),
            "mean_flow weighs items by their errors already; leave emphasis at (0, 1.0).",
        )
        for pattern in self.trained:
            require_pattern(pattern)
        total = sum(phase.num_steps for phase in self.phases)
        require(
            not self.phases or total == self.num_steps,
            f"phases last {total} steps and num_steps={self.num_steps}; they must agree.",
        )
        require(
            not self.mean_flow.on or self.time_law == "max2",
            f"time_law={self.time_law!r} gives no pairs of times, which mean_flow needs; use max2.",
        )

    def phase_data(self) -> tuple[tuple[int, Data], ...]:
        """Gives (steps, data) of every phase."""
        phases = self.phases or (DiTPhase(num_steps=self.num_steps),)
        return tuple((phase.num_steps, phase.data or self.data) for phase in phases)


def toy_dit(config: TrainDiT) -> TrainDiT:
    """Keeps a recipe's method and shrinks its sizes: two steps on made-up songs, anywhere."""
    return dataclasses.replace(
        config,
        num_steps=2,
        phases=(),
        mesh=Mesh(),
        model=dataclasses.replace(toys.MODEL, mask_padding=config.model.mask_padding),
        optimizer=dataclasses.replace(toys.OPTIMIZER, name=config.optimizer.name),
        straight_start=False,  # needs a stream as wide as a patch of latents
        data=toys.DATA,
        eval_batches=1,
        eval_prompts=True,
        log_every=1,
        save_every=1,
    )
