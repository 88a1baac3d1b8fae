"""Deterministic, resumable, sharded batches through a grain pipeline.

Batch n depends on the seed, the data and n alone: its bucket, its examples, and all that is drawn
for them. With B examples a batch over all processes, process p of P reads block n P + p of B / P
examples from its bucket's one global shuffled order, so that neither the number of processes nor
that of worker processes or threads changes what is trained on; the position is one number, which
checkpoints keep.

    windows of a folder -> shuffled, repeated -> examples --+
    windows of another  -> shuffled, repeated -> examples --+-> batches of a bucket --+
                                             ...            +-> batches of another  --+-> batch n

A song that cannot be trained on is replaced: another window of the same folder and bucket is drawn
from the example's own generator, and the bad song is named once in the log (`ledger.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging

from acestep_jax.data import batch as batch_lib
from acestep_jax.data import ledger as ledger_lib
from acestep_jax.data import mixture, sources, transforms
from acestep_jax.data.examples import ExampleMaker, stack
from acestep_jax.data.windows import Shuffled, Windows

NANO_TOKENIZER = str(sources.EMBEDDED.parent / "text_encoder")
_ENDLESS = 2**50
"""Examples of an endless stream; grain's own end, 2**63 - 1, overflows when it is divided."""


class DataConfig(Protocol):
    """The fields that are read from `training.config.Data`, which describes them."""

    shards: str
    batch_size: int
    num_frames: int
    text_tokens: int
    lyric_tokens: int
    timbre_frames: int
    num_workers: int
    num_threads: int
    shard_weights: tuple[float, ...]
    buckets: tuple[tuple[int, int, int], ...]
    tasks: tuple[tuple[str, float], ...]
    repaint_share: tuple[float, float]
    start_at: str
    timbre_share: float
    metadata_dropout: float
    bare_share: float
    word_times: bool
    lyric_margin: float
    precomputed: tuple[str, ...]
    max_bad_share: float


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
      **example: fields of `transforms.ExampleSpec` to have otherwise than the configuration.

    Raises:
      ValueError: if the processes cannot share a batch evenly, or the folders' weights are not one
        a folder.
      FileNotFoundError: if there are no such shards.
      TooManyBadSongs: if too many songs lie in files that cannot be opened.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    buckets = _buckets(config, example)
    for bucket in buckets:
        if bucket.batch_size % count:
            raise ValueError(
                f"a batch of {bucket.batch_size} examples (data.batch_size, data.buckets) cannot "
                f"be shared by {count} processes; use a multiple."
            )
    songs = _open_songs(config, seed, split, max(bucket.num_frames for bucket in buckets))
    streams = mixture.plan(songs, buckets, config.shard_weights)
    logging.info("Batches of the %s split: %s.", split, mixture.describe(streams, buckets))
    specs = [_spec(config, bucket, example) for bucket in buckets]
    folder = tokenizer or NANO_TOKENIZER
    makers = [ExampleMaker(songs, s.windows, specs[s.bucket], folder) for s in streams]
    return Batches(
        songs,
        list(zip(streams, makers)),
        buckets,
        seed=seed,
        process=(index, count),
        workers=(config.num_workers, config.num_threads),
        max_bad_share=config.max_bad_share,
    )


def _buckets(config: DataConfig, example: Mapping[str, Any]) -> list[mixture.Bucket]:
    lyric_tokens = example.get("lyric_tokens", config.lyric_tokens)
    single = config.num_frames, lyric_tokens, config.batch_size
    return [mixture.Bucket(*bucket) for bucket in config.buckets or (single,)]


def _spec(
    config: DataConfig, bucket: mixture.Bucket, example: Mapping[str, Any]
) -> transforms.ExampleSpec:
    fields = {
        "text_tokens": config.text_tokens,
        "timbre_frames": config.timbre_frames,
        "timbre_share": config.timbre_share,
        "metadata_dropout": config.metadata_dropout,
        "bare_share": config.bare_share,
        "tasks": config.tasks,
        "repaint_share": config.repaint_share,
        "start_at": config.start_at,
        "states": "states" in config.precomputed,
        "codes": "codes" in config.precomputed,
        "word_times": config.word_times,
        "lyric_margin": config.lyric_margin,
        **example,
        "num_frames": bucket.num_frames,
        "lyric_tokens": bucket.lyric_tokens,
    }
    return transforms.ExampleSpec(**fields)


def _open_songs(
    config: DataConfig, seed: int, split: str, num_frames: int
) -> sources.Songs | sources.Synthetic:
    if config.shard_weights and config.shards != "synthetic":
        folders, weights = sources.resolve_folders(config.shards), config.shard_weights
        if len(weights) != len(folders):
            raise ValueError(
                f"data.shards names {len(folders)} folders and data.shard_weights has "
                f"{len(weights)} numbers; give one a folder, or none."
            )
    return sources.open_songs(config.shards, split, seed=seed, num_frames=num_frames)


class Batches:
    """An endless iterator over `batch.Batch` whose position can be saved and restored."""

    def __init__(
        self,
        songs: sources.Songs | sources.Synthetic,
        streams: Sequence[tuple[mixture.Stream, ExampleMaker]],
        buckets: Sequence[mixture.Bucket],
        *,
        seed: int,
        process: tuple[int, int],
        workers: tuple[int, int],
        max_bad_share: float,
    ) -> None:
        """See `make_batches`."""
        self.songs, self.buckets = songs, tuple(buckets)
        self._streams = [stream for stream, _ in streams]
        self._position = 0
        self._iterator: Any = None
        self._workers, self._threads = workers
        maker = streams[0][1]
        self.ledger = ledger_lib.Ledger(len(songs), max_bad_share, maker.explain, songs.lost)
        self._blocks = self._mix(streams, seed, *process)

    def _mix(
        self,
        streams: Sequence[tuple[mixture.Stream, ExampleMaker]],
        seed: int,
        index: int,
        count: int,
    ) -> Any:
        """Builds the endless sequence of this process's blocks."""
        import grain

        of_buckets = []
        for number, bucket in enumerate(self.buckets):
            parts, shares = [], []
            for place, (stream, maker) in enumerate(streams):
                if stream.bucket == number:
                    order = _shuffle(stream.windows, _seed(seed, place))
                    parts.append(order.random_map(maker))
                    shares.append(stream.share)
            if parts:
                examples = grain.MapDataset.mix(parts, shares) if len(parts) > 1 else parts[0]
                blocks = examples[:_ENDLESS].batch(bucket.batch_size // count, batch_fn=stack)
                of_buckets.append(blocks[index::count])
        shares = [share for share in mixture.batch_shares(self._streams, self.buckets) if share]
        return grain.MapDataset.mix(of_buckets, shares) if len(of_buckets) > 1 else of_buckets[0]

    @property
    def silence_latent(self) -> np.ndarray:
        """Encoded silence [1, S, C] of the shards."""
        return self.songs.silence_latent

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> batch_lib.Batch:
        if self._iterator is None:
            self._iterator = self._open()
        batch, notes = next(self._iterator)
        self.ledger.add(**notes)
        self._position += 1
        return batch

    def _open(self) -> Any:
        """Starts reading at the current position."""
        import grain

        # without threads, reading runs in line: no batch is made before it is asked for
        options = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=2 * self._threads
        )
        dataset = self._blocks[self._position :].to_iter_dataset(options)
        if self._workers:
            workers = grain.MultiprocessingOptions(num_workers=self._workers)
            dataset = dataset.mp_prefetch(workers)
        return iter(dataset)

    def get_state(self) -> dict[str, Any]:
        """Gives the position: how many batches were handed out, of what."""
        return {"position": self._position, "plan": self._plan()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a position from `get_state`, of any number of processes or workers.

        Raises:
          ValueError: if the batches had other shapes, or it is no such position.
        """
        if "plan" not in state:
            raise ValueError(f"no position of this loader: {dict(state)}; start the data anew.")
        saved, plan = state["plan"], self._plan()
        if saved["buckets"] != plan["buckets"]:
            raise ValueError(
                f"the position counts batches of (frames, lyric tokens, examples) "
                f"{saved['buckets']}, this run makes {plan['buckets']}; resume with the same "
                "data.batch_size and data.buckets."
            )
        if saved["streams"] != plan["streams"]:
            logging.warning(
                "The songs are not those that this position was saved with (%s, now %s): the run "
                "goes on with other batches than it would have seen.",
                saved["streams"],
                plan["streams"],
            )
        self.close()
        self._position = state["position"]

    def counts(self) -> dict[str, int]:
        """Gives what the ledger of this process has counted."""
        return self.ledger.counts()

    def _plan(self) -> dict[str, list]:
        return {
            "buckets": [[b.num_frames, b.lyric_tokens, b.batch_size] for b in self.buckets],
            "streams": [f"{s.windows!r} x {s.share:.6g}" for s in self._streams],
        }

    def close(self) -> None:
        """Stops reading ahead; the next batch starts it again."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None


def _shuffle(windows: Windows, seed: int) -> Any:
    """Puts windows into an endless order; the seed also serves the draws that follow."""
    import grain

    if len(windows) <= Shuffled.LARGEST:
        order = Shuffled(windows, seed, _ENDLESS)
        return grain.MapDataset.source(order).seed(seed)
    return grain.MapDataset.source(windows).seed(seed).shuffle().repeat()


def _seed(seed: int, stream: int) -> int:
    """Gives each stream a seed of its own, so that no two draw alike; 32 bits, as grain wants."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
