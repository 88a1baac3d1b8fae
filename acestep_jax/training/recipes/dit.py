"""Configuration of flow-matching training."""

import dataclasses
from typing import Literal

from acestep_jax.training.config import Model, Optimizer, Run, require, require_pattern


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
            require_pattern(pattern)
