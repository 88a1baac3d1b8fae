"""Deterministic, resumable, sharded batches through a grain pipeline.

Batch n depends on (seed, n) alone. With B examples a batch over all processes, process p of P reads
block n P + p of B / P examples from one global shuffled order, so that neither the number of
processes nor that of worker processes changes what is trained on; the position is one number, which
checkpoints keep.
"""

from typing import Any, Protocol

import jax
import numpy as np

from acestep_jax.data import batch as batch_lib
from acestep_jax.data import sources, transforms

NANO_TOKENIZER = str(sources.EMBEDDED.parent / "text_encoder")


class DataConfig(Protocol):
    """The fields that are read from `training.config.Data`."""

    shards: str
    batch_size: int
    num_frames: int
    num_workers: int
    num_threads: int


def make_batches(
    config: DataConfig,
    *,
    seed: int,
    split: str = "train",
    tokenizer: str = "",
    process_index: int | None = None,
    process_count: int | None = None,
    **example: Any,
) -> "Batches":
    """Opens shards as an endless iterator over batches of this process.

    Args:
      config: where and how much; see `training.config.Data`. `shards` names folders separated by
        commas; "+" is the embedded one, "synthetic" makes up songs without any file.
      seed: of order, crops and all other draws.
      split: train, validation or test.
      tokenizer: folder of the text encoder's tokenizer; the nano family's by default.
      process_index, process_count: by default those of `jax.distributed`.
      **example: fields of `transforms.ExampleSpec` that differ from their defaults.

    Raises:
      ValueError: if the processes cannot share a batch evenly.
      FileNotFoundError: if there are no such shards.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if config.batch_size % count:
        raise ValueError(
            f"data.batch_size={config.batch_size} cannot be shared by {count} processes; "
            "use a multiple."
        )
    if config.shards == "synthetic":
        windows = sources.Synthetic(config.num_frames, seed=seed)
    else:
        windows = sources.Windows(sources.resolve_folders(config.shards), split, config.num_frames)
    spec = transforms.ExampleSpec(num_frames=config.num_frames, **example)
    maker = _MakeExample(spec, windows.silence_latent[0], tokenizer or NANO_TOKENIZER)
    return Batches(
        windows,
        maker,
        seed=seed,
        local_size=config.batch_size // count,
        process=(index, count),
        num_workers=config.num_workers,
        num_threads=config.num_threads,
    )


class _MakeExample:
    """Calls `transforms.make_example`; opens the tokenizer where it is used, once a process."""

    def __init__(self, spec: transforms.ExampleSpec, silence: np.ndarray, tokenizer: str) -> None:
        self._spec, self._silence, self._folder = spec, silence, tokenizer
        self._tokenizer = None

    def __call__(self, element: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self._tokenizer is None:
            self._tokenizer = transforms.load_tokenizer(self._folder)
        record, first = element
        return transforms.make_example(
            record, first, self._spec, self._silence, self._tokenizer, rng
        )

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tokenizer": None}


class Batches:
    """An endless iterator over `batch.Batch` whose position can be saved and restored."""

    def __init__(
        self,
        windows: sources.Windows | sources.Synthetic,
        maker: _MakeExample,
        *,
        seed: int,
        local_size: int,
        process: tuple[int, int],
        num_workers: int,
        num_threads: int,
    ) -> None:
        """See `make_batches`."""
        import grain

        self.windows = windows
        self._process, self._size = process, local_size * process[1]
        self._workers, self._threads = num_workers, num_threads
        self._position = 0
        self._iterator: Any = None
        self._blocks = (
            grain.MapDataset.source(windows)
            .seed(seed)
            .shuffle()
            .repeat()
            .random_map(maker)
            .batch(local_size, batch_fn=batch_lib.stack_examples)
        )

    @property
    def silence_latent(self) -> np.ndarray:
        """Encoded silence [1, S, C] of the shards."""
        return self.windows.silence_latent

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> batch_lib.Batch:
        if self._iterator is None:
            self._iterator = self._open()
        batch = next(self._iterator)
        self._position += 1
        return batch

    def _open(self) -> Any:
        """Starts reading at the current position."""
        import grain

        index, count = self._process
        mine = self._blocks[self._position * count + index :: count]
        # without threads, reading runs in line: no batch is made before it is asked for
        options = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=2 * self._threads
        )
        dataset = mine.to_iter_dataset(options)
        if self._workers:
            workers = grain.MultiprocessingOptions(num_workers=self._workers)
            dataset = dataset.mp_prefetch(workers)
        return iter(dataset)

    def get_state(self) -> dict[str, int]:
        """Gives the position: how many batches were handed out, of how many examples."""
        return {"position": self._position, "batch_size": self._size}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position from `get_state`, of any number of processes or workers.

        Raises:
          ValueError: if the batches had another size.
        """
        if state["batch_size"] != self._size:
            raise ValueError(
                f"the position counts batches of {state['batch_size']} examples, this run makes "
                f"batches of {self._size}; resume with the same data.batch_size."
            )
        self.close()
        self._position = state["position"]

    def close(self) -> None:
        """Stops reading ahead; the next batch starts it again."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None
