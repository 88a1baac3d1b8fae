"""Configuration of teaching heads of a DiT when words are sung."""

import dataclasses

from acestep_jax.training.config import Mesh, require
from acestep_jax.training.recipes import toys
from acestep_jax.training.recipes.dit import TrainDiT


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainAligner(TrainDiT):
    """Cross-attention taught by word times (train/aligner.py)."""

    trained: tuple[str, ...] = ("^dit$", "^condition_encoder$")  # trained parts
    # (layer, heads) that are taught and later read, all from 0
    heads: tuple[tuple[int, tuple[int, ...]], ...] = ((5, (0, 1)), (7, (0, 1)))
    strangers: float = 0.3  # chance that a song is given another's lyrics, which it should not heed
    levels: tuple[float, float] = (0.05, 0.3)  # noise that songs are heard through, drawn evenly

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.levels
        require(0 <= self.strangers < 1, f"strangers={self.strangers} must lie in [0, 1).")
        require(0 <= low <= high <= 1, f"levels={self.levels}; use 0 <= a <= b <= 1.")
        require(
            self.data.word_times,
            "data.word_times is off; words teach nothing without their times.",
        )
        require(
            not (self.mean_flow.on or self.phases or self.covers),
            "mean_flow, phases and covers are those of train/dit.py; an aligner has none.",
        )


def toy_aligner(config: TrainAligner) -> TrainAligner:
    """Shrinks a run to two steps on the songs of the package and random networks."""
    return dataclasses.replace(
        config,
        num_steps=2,
        mesh=Mesh(),
        model=toys.MODEL,
        optimizer=toys.OPTIMIZER,
        data=dataclasses.replace(toys.DATA, shards="", num_frames=64, word_times=True),
        heads=((1, (0, 1)),),
        eval_batches=1,
        log_every=1,
        save_every=1,
    )
