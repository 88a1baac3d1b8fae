"""Configuration of training low-rank adapters."""

import dataclasses

from acestep_jax.nn.lora import LoRA
from acestep_jax.training.config import Mesh, Optimizer, Samples, require
from acestep_jax.training.recipes import toys
from acestep_jax.training.recipes.dit import TrainDiT


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainLoRA(TrainDiT):
    """Low-rank adapters of the DiT by flow matching (train/lora.py). Defaults: the release's."""

    adapter: LoRA = LoRA()
    optimizer: Optimizer = Optimizer(
        peak_lr=1e-4, warmup_steps=100, schedule="cosine", final_lr_ratio=0.01, b2=0.999
    )
    trained: tuple[str, ...] = ("^dit$",)  # the part with adapters; there are none for others
    masked_loss: bool = True  # padded frames stay out; the release's trainer counts them
    control: str = ""  # shards of songs that should stay as they are: measured, not trained on
    prior: str = ""  # shards of other songs, at which the velocity is held to the base's
    prior_items: int = 4  # of them a step, over all devices and processes
    prior_weight: float = 2.0  # of the squared difference from the base's velocity there
    report: bool = True  # at the end, write a report that plays base and adapter side by side

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.trained == ("^dit$",),
            f"trained={self.trained}: adapters belong to the DiT alone; choose layers with "
            "adapter.targets.",
        )
        require(not self.phases, "phases are those of train/dit.py; adapters train in one.")
        require(self.prior_items > 0, f"prior_items={self.prior_items} must be positive.")
        require(self.prior_weight > 0, f"prior_weight={self.prior_weight} must be positive.")


def toy_adapters(config: TrainLoRA) -> TrainLoRA:
    """Shrinks a run to two steps on made-up songs and random networks."""
    return dataclasses.replace(
        config,
        num_steps=2,
        mesh=Mesh(),
        model=toys.MODEL,
        data=toys.DATA,
        optimizer=toys.OPTIMIZER,
        control="synthetic",
        prior="synthetic",
        prior_items=1,
        eval_batches=1,
        samples=Samples(num_items=1, num_steps=2),
        log_every=1,
    )
