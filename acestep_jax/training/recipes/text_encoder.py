"""Configuration of teaching a text encoder to read."""

import dataclasses

from acestep_jax.nn.config import TEXT_ENCODERS
from acestep_jax.training.config import Data, Mesh, Optimizer, Run, require
from acestep_jax.training.recipes import toys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Which text encoder is taught; folders, hub ids or asset:<folder>."""

    preset: str = "nano"  # sizes of random weights: a name in nn.config.TEXT_ENCODERS
    weights: str = ""  # a text encoder to go on from, with its tokenizer; empty: random weights
    export_dtype: str = "bfloat16"  # of exported safetensors

    def __post_init__(self) -> None:
        require(
            self.preset in TEXT_ENCODERS,
            f"model.preset={self.preset!r}; they are {', '.join(TEXT_ENCODERS)}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """How prompts are made (data/facts.py)."""

    length: int = 112  # tokens of a prompt; longer ones are cut
    slowest: int = 40  # beats a minute, as `fastest`
    fastest: int = 220  # beats a minute; tempi are drawn evenly by their logarithm
    untold: float = 0.1  # chance of each fact to be left out

    def __post_init__(self) -> None:
        require(
            30 <= self.slowest < self.fastest <= 300,
            f"facts.slowest={self.slowest} and fastest={self.fastest} must rise within 30 to 300.",
        )
        require(0 <= self.untold < 1, f"facts.untold={self.untold} must lie in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTextEncoder(Run):
    """Teaches a text encoder what prompts say (train/text_encoder.py)."""

    model: Reader = Reader()
    facts: Facts = Facts()
    # Prompts a step are data.batch_size, captions those of data.shards
    optimizer: Optimizer = Optimizer(peak_lr=1e-3, warmup_steps=50, schedule="cosine")
    tempo_width: float = 0.015  # spread of the tempo that is right, in natural logarithms
    word_weight: float = 1.0  # of "which words", beside tempo, key and metre
    eval_batches: int = 4  # batches of the held-out split an evaluation averages

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tempo_width > 0, f"tempo_width={self.tempo_width} must be positive.")
        require(self.word_weight >= 0, f"word_weight={self.word_weight} must not be negative.")


def toy_text_encoder(config: TrainTextEncoder) -> TrainTextEncoder:
    """Shrinks a run to two steps on made-up songs and a random text encoder."""
    return dataclasses.replace(
        config,
        num_steps=2,
        mesh=Mesh(),
        model=Reader(preset="toy"),
        data=Data(shards="synthetic", batch_size=2),
        optimizer=toys.OPTIMIZER,
        eval_batches=1,
        eval_every=0,
        log_every=1,
    )
