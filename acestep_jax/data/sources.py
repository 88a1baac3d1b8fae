"""Where examples come from: windows into the songs of one or more folders of shards."""

import bisect
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import acestep_jax
from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import shards

EMBEDDED = pathlib.Path(acestep_jax.__file__).parent / "assets" / "nano" / "shards"
"""The shards of our own songs that ship with the package."""
_WORDS = ("calm", "lively", "dark", "bright")


def resolve_folders(spec: str) -> list[pathlib.Path]:
    """Turns the `shards` field of a configuration into folders.

    Args:
      spec: folders separated by commas, "+" stands for the embedded one; empty means it alone.

    Raises:
      FileNotFoundError: if a folder is missing.
    """
    names = [name.strip() for name in spec.split(",")] if spec else ["+"]
    folders = [EMBEDDED if name == "+" else pathlib.Path(name) for name in names]
    for folder in folders:
        if not (folder / "dataset.json").exists():
            raise FileNotFoundError(
                f"{folder} is no folder of shards (it has no dataset.json); make one with "
                "`make data`, or leave data.shards empty to train on the embedded songs."
            )
    return folders


class Windows:
    """A random-access source of (record, first frame): every song, cut into windows of one length.

    A song of n windows appears n times, so that long songs are heard in proportion; the loader
    moves each window by a random part of its length. Songs shorter than a window appear once.
    """

    def __init__(self, folders: Sequence[pathlib.Path], split: str, num_frames: int) -> None:
        """Finds the shards of a split; lengths come from the folders' tables.

        Args:
          folders: folders of shards; their latents must come from one autoencoder.
          split: train, validation or test.
          num_frames: length of a window.

        Raises:
          FileNotFoundError: if no folder has the split.
          ValueError: if the folders' latents differ in channels or in encoded silence.
        """
        self._files = [str(f) for folder in folders for f in shards.shard_files(folder, split)]
        if not self._files:
            raise FileNotFoundError(f"no songs of split {split!r} in {[str(f) for f in folders]}")
        self.num_frames = num_frames
        self.silence_latent = _common_silence(folders)
        tables = [shards.read_table(folder) for folder in folders]
        self._frames = [n for table in tables for n in table["frames"].get(split, [])]
        self._ends = np.cumsum([max(1, n // num_frames) for n in self._frames]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[shards.Record, int]:
        song = bisect.bisect_right(self._ends, index)
        first = index - (self._ends[song - 1] if song else 0)
        return self.record(song), first * self.num_frames

    def __repr__(self) -> str:
        return f"Windows({self._files}, {self.num_frames})"  # grain names sources by their repr

    @property
    def num_songs(self) -> int:
        """How many songs the windows are cut from."""
        return len(self._ends)

    @functools.cached_property
    def _reader(self) -> Any:
        from array_record.python import array_record_data_source

        return array_record_data_source.ArrayRecordDataSource(self._files)

    @functools.cached_property
    def _read(self) -> Callable[[int], shards.Record]:
        # parsing a record costs more than the example made of it; small sets stay in memory
        return functools.lru_cache(maxsize=128)(
            lambda song: shards.decode_record(self._reader[song])
        )

    def record(self, song: int) -> shards.Record:
        """Reads one song."""
        return self._read(song)

    def all_records(self) -> Iterator[shards.Record]:
        """Reads every song in order."""
        return (self.record(song) for song in range(self.num_songs))

    def __getstate__(self) -> dict:
        # worker processes open the files anew
        return {k: v for k, v in self.__dict__.items() if k not in ("_reader", "_read")}


class Synthetic:
    """Songs that are made up on the spot, for tests: latents of unit variance, captions of words.

    The mean of a song's latents depends on its caption, so that there is something to learn.
    """

    def __init__(
        self, num_frames: int, *, seed: int, num_songs: int = 16, channels: int = 64
    ) -> None:
        """Fixes the number of songs; each has room for a window and a reference."""
        self.num_frames, self.num_songs = num_frames, num_songs
        self._seed, self._channels = seed, channels
        self.silence_latent = np.zeros((1, shards.SILENCE_FRAMES, channels), np.float32)

    def __len__(self) -> int:
        return self.num_songs

    def __getitem__(self, index: int) -> tuple[shards.Record, int]:
        return self.record(index), 0

    def __repr__(self) -> str:
        return f"Synthetic({self.num_frames}, {self._seed}, {self.num_songs}, {self._channels})"

    def record(self, song: int) -> shards.Record:
        """Makes up one song."""
        rng = np.random.default_rng([self._seed, song])
        num_frames = 3 * max(self.num_frames, 128)
        word = _WORDS[song % len(_WORDS)]
        mean = np.random.default_rng(song % len(_WORDS)).standard_normal(self._channels)
        latents = 0.5 * mean + 0.87 * rng.standard_normal((num_frames, self._channels))
        labels = labels_lib.SongLabels(
            name=f"synthetic-{song}",
            group=f"synthetic-{song}",
            split="train",
            seconds=num_frames / units.FRAME_RATE,
            captions=(f"{word} music", f"music, {word}"),
            bpm=60 + 5 * song,
            instrumental=True,
        )
        return shards.Record(labels, latents.astype(np.float16))


def _common_silence(folders: Sequence[pathlib.Path]) -> np.ndarray:
    first, *others = [shards.read_silence(folder) for folder in folders]
    for folder, other in zip(folders[1:], others, strict=True):
        if first.shape != other.shape or not np.allclose(first, other, atol=1e-3):
            raise ValueError(
                f"{folder} was encoded by another autoencoder than {folders[0]}: their silence "
                "differs. Prepare both with the same one."
            )
    return first
