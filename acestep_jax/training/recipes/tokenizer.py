"""Configuration of the audio tokenizer's training."""

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

Stage = Literal["reconstruct", "joint", "settle"]


COVERS = (("text2music", 0.5), ("cover", 0.5))
"""Every other item reads hints; without the others the decoder would forget text2music."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTokenizer(Run):
    """Diffusion autoencoding of tokenizer and detokenizer (train/tokenizer.py)."""

    model: Model = Model()
    data: Data = Data(tasks=COVERS)
    codec: Optimizer = Optimizer(peak_lr=1e-4)  # of tokenizer and detokenizer
    decoder: Optimizer = Optimizer(peak_lr=1e-4)  # of the parts in `trained`
    # Patterns over the names of the parts dit, condition_encoder, null_condition and text_encoder
    trained: tuple[str, ...] = ("^dit$",)  # parts trained beside the codec; none: they stay frozen
    fresh: bool = True  # draw the codec anew; false goes on with that of model.weights
    # What summarises a window; only attention is a released layout, the others are not exported
    pooler: Literal["attention", "mean", "conv"] = "attention"
    start_batches: int = 4  # batches that a fresh codec is fitted to before it learns; 0: none
    reconstruct_steps: int = 500  # first stage: the codec alone, by its reconstruction
    settle_steps: int = 0  # last stage: codes as they are, the decoder alone; part of num_steps
    reconstruct_weight: float = 1.0  # of the reconstruction beside the velocity error, at first
    final_reconstruct_weight: float = 0.1  # at the end; between, on a line
    cosine_weight: float = 0.1  # of 1 - cosine of each frame, inside the reconstruction
    level_weight: float = 0.0  # of telling each channel's level in a window from its code
    level_channels: int = 0  # of so many of the first channels; 0: of all
    level_directions: int = 8  # what levels have in common: principal directions that are damped
    window_dropout: float = 0.05  # chance that a window's hints are silence
    code_noise: float = 0.02  # chance that a code is a neighbour of the right one
    condition_dropout: float = 0.15  # chance that an item reads the null condition
    time_law: Literal["max2", "single", "uniform"] = "max2"  # training times; max2 as the release
    masked_loss: bool = False  # leave padded frames out of the loss; the release counts them
    eval_batches: int = 4  # batches of the held-out split an evaluation averages
    eval_code_noise: float = 0.1  # share of wrong codes in "error_wrong"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("window_dropout", "code_noise", "condition_dropout"):
            value = getattr(self, field)
            require(0 <= value <= 1, f"{field}={value} must lie in [0, 1].")
        for field in (
            "reconstruct_steps",
            "settle_steps",
            "start_batches",
            "level_weight",
            "level_channels",
        ):
            require(getattr(self, field) >= 0, f"{field} must not be negative.")
        require(
            not self.level_weight or self.start_batches > 0,
            f"level_weight={self.level_weight} needs start_batches, which are 0.",
        )
        both = self.reconstruct_steps + self.settle_steps
        require(
            both <= self.num_steps,
            f"the first and the last stage take {both} of num_steps={self.num_steps} steps.",
        )
        require(
            dict(self.data.tasks).get("cover", 0) > 0,
            f"data.tasks={self.data.tasks} has no covers, and nothing else reads hints; add "
            '("cover", 0.5).',
        )
        require(
            bool(self.trained) or not self.settle_steps,
            "settle_steps train the decoder alone, but `trained` names no part of it.",
        )
        for pattern in self.trained:
            require_pattern(pattern)

    def stage_at(self, step: int) -> Stage:
        """Gives the stage of a step, counted from 0."""
        if step < self.reconstruct_steps:
            return "reconstruct"
        return "settle" if step >= self.num_steps - self.settle_steps else "joint"


def toy_tokenizer(config: TrainTokenizer) -> TrainTokenizer:
    """Keeps a recipe's method and shrinks its sizes: six steps on made-up songs, anywhere."""
    return dataclasses.replace(
        config,
        num_steps=6,
        reconstruct_steps=2,
        settle_steps=0,
        start_batches=1,
        eval_batches=1,
        mesh=Mesh(),
        model=dataclasses.replace(toys.MODEL, mask_padding=config.model.mask_padding),
        codec=toys.OPTIMIZER,
        decoder=toys.OPTIMIZER,
        data=dataclasses.replace(toys.DATA, tasks=COVERS),
        log_every=1,
        save_every=1,
    )
