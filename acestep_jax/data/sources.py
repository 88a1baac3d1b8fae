"""Where examples come from: the songs of folders of shards, or made up on the spot."""

import bisect
import concurrent.futures
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging

import acestep_jax
from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import shards

EMBEDDED = pathlib.Path(acestep_jax.__file__).parent / "assets" / "nano" / "shards"
"""The shards of our own songs that ship with the package."""
CACHE_BYTES: int = 256 * 2**20
"""Sets of files up to this size are kept in memory: parsing a record costs more than its use."""
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


class SongSource(Protocol):
    """Songs by number.

    Attributes:
      frames: [N] length of every song in latent frames, known without reading any.
      folder_of: [N] number of the folder that each song comes from.
      silence_latent: encoded silence [1, S, C].
      lost: songs known to be unreadable before any is read.
    """

    frames: np.ndarray
    folder_of: np.ndarray
    silence_latent: np.ndarray
    lost: Sequence[int]

    def record(self, song: int) -> shards.Record:
        """Reads one song; raises BadRecord if it is not fit to train on."""
        ...

    def place(self, song: int) -> str:
        """Says where a song is stored, readable or not."""
        ...


class Songs:
    """The songs of one split in one or more folders of shards.

    A file that cannot be opened costs its own songs only: they stay in the count, so that the order
    of all others is the same as with the whole file, and are refused one by one when asked for.
    """

    def __init__(self, folders: Sequence[pathlib.Path], split: str) -> None:
        """Finds the shards of a split; lengths come from the folders' tables.

        Args:
          folders: folders of shards; their latents must come from one autoencoder.
          split: train, validation or test.

        Raises:
          FileNotFoundError: if no folder has the split.
          ValueError: if the folders' latents differ in channels or in encoded silence, or a folder
            has not the songs its table lists.
        """
        self.silence_latent = _common_silence(folders)
        self._files: list[_File] = []
        frames = [shards.read_table(folder)["frames"].get(split, []) for folder in folders]
        for folder, listed in zip(folders, frames):
            self._files += _count_rows(folder, split, len(listed))
        counts = [len(listed) for listed in frames]
        self.frames = np.concatenate([np.asarray(listed, np.int32) for listed in frames])
        self.folder_of = np.repeat(np.arange(len(folders)), counts)
        if not len(self.frames):
            raise FileNotFoundError(f"no songs of split {split!r} in {[str(f) for f in folders]}")
        rows = np.array([file.rows for file in self._files])
        self._ends = np.cumsum(rows).tolist()
        readable = rows * [not file.problem for file in self._files]
        self._first_rows = (np.cumsum(readable) - readable).tolist()
        self._small = sum(file.path.stat().st_size for file in self._files) <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self.frames)

    def record(self, song: int) -> shards.Record:
        """Reads one song.

        Raises:
          BadRecord: if it cannot be read, or must not be trained on.
        """
        return self._read(song)

    def place(self, song: int) -> str:
        """Names a song's file and row."""
        number, row = self._locate(song)
        path = self._files[number].path
        return f"{path.parent.name}/{path.name}[{row}]"

    @property
    def lost(self) -> list[int]:
        """The songs of files that cannot be opened."""
        ends = zip(self._files, self._ends)
        return [i for file, end in ends if file.problem for i in range(end - file.rows, end)]

    def all_records(self) -> Iterator[shards.Record]:
        """Reads every song in order."""
        return (self.record(song) for song in range(len(self)))

    def _locate(self, song: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._ends, song)
        return number, song - (self._ends[number - 1] if number else 0)

    @functools.cached_property
    def _reader(self) -> Any:
        # one reader for all files: it opens each on its first use
        healthy = [str(file.path) for file in self._files if not file.problem]
        return _open(healthy)

    @functools.cached_property
    def _read(self) -> Callable[[int], shards.Record]:
        return functools.lru_cache(maxsize=None)(self._parse) if self._small else self._parse

    def _parse(self, song: int) -> shards.Record:
        number, row = self._locate(song)
        if self._files[number].problem:
            raise shards.BadRecord(self._files[number].problem)
        try:
            buffer = self._reader[self._first_rows[number] + row]
        except Exception as error:  # the reader's own errors share no base class
            raise shards.BadRecord(f"cannot be read ({error})") from error
        record = shards.decode_record(buffer)
        problems = shards.record_problems(record, self.silence_latent.shape[-1])
        if len(record.latents) != self.frames[song]:
            problems.append(f"{len(record.latents)} frames, dataset.json says {self.frames[song]}")
        if problems:
            raise shards.BadRecord(f"{record.labels.name}: " + "; ".join(problems))
        return record

    def __repr__(self) -> str:
        return f"Songs({[str(file.path) for file in self._files]})"

    def __getstate__(self) -> dict:
        # worker processes open the files anew
        return {k: v for k, v in self.__dict__.items() if k not in ("_reader", "_read")}


class _File:
    """One shard: its path, its number of rows, and why it cannot be opened, if so."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.rows, self.problem = path, 0, ""
        try:
            with _open([str(path)]) as reader:
                self.rows = len(reader)
        except Exception as error:  # the reader's own errors share no base class
            self.problem = f"the file cannot be opened ({error})"


def _open(paths: Sequence[str]) -> Any:
    from array_record.python import array_record_data_source

    return array_record_data_source.ArrayRecordDataSource(paths)


def _count_rows(folder: pathlib.Path, split: str, expected: int) -> list[_File]:
    """Opens the shards of a split and accounts for every song of the table.

    Songs that no readable file holds belong to the broken ones, in equal parts: shards are equally
    long but for the last.

    Raises:
      ValueError: if the numbers do not work out.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
        files = list(pool.map(_File, shards.shard_files(folder, split)))
    broken = [file for file in files if file.problem]
    missing = expected - sum(file.rows for file in files)
    if missing < 0 or (missing and (not broken or missing % len(broken))):
        detail = f"; {len(broken)} of its files cannot be opened" if broken else ""
        raise ValueError(
            f"{folder} holds {expected - missing} songs of split {split!r}, its dataset.json lists "
            f"{expected}{detail}. `python -m acestep_jax.data.validate {folder}` names what is "
            "wrong; prepare the folder anew."
        )
    for file in broken:
        file.rows = missing // len(broken)
        logging.error("%s: %s; its %d songs are left out.", file.path, file.problem, file.rows)
    return files


class Synthetic:
    """Songs that are made up on the spot, for tests: latents of unit variance, captions of words.

    The mean of a song's latents depends on its caption, so that there is something to learn. Every
    second song has two stems, whose latents add up to its own.
    """

    def __init__(
        self, num_frames: int, *, seed: int, num_songs: int = 16, channels: int = 64
    ) -> None:
        """Fixes the number of songs; each has room for a window and a reference."""
        self._seed, self._channels = seed, channels
        self.frames = np.full(num_songs, 3 * max(num_frames, 128))
        self.folder_of, self.lost = np.zeros(num_songs, int), []
        self.silence_latent = _made_up_silence(channels)

    def __len__(self) -> int:
        return len(self.frames)

    def place(self, song: int) -> str:
        """Names a song."""
        return f"synthetic[{song}]"

    def record(self, song: int) -> shards.Record:
        """Makes up one song."""
        rng = np.random.default_rng([self._seed, song])
        shape = int(self.frames[song]), self._channels
        word = _WORDS[song % len(_WORDS)]
        mean = np.random.default_rng(song % len(_WORDS)).standard_normal(self._channels)
        latents = (0.5 * mean + 0.87 * rng.standard_normal(shape)).astype(np.float16)
        labels = labels_lib.SongLabels(
            name=f"synthetic-{song}",
            group=f"synthetic-{song}",
            split="train",
            seconds=shape[0] / units.FRAME_RATE,
            captions=(f"{word} music", f"music, {word}"),
            bpm=60 + 5 * song,
            instrumental=True,
        )
        drums = (latents * np.float16(0.5)).astype(np.float16)
        stems = {"drums": drums, "strings": latents - drums} if song % 2 else {}
        return shards.Record(labels, latents, None, stems)


def _made_up_silence(channels: int) -> np.ndarray:
    """Makes [1, S, C] like that of an autoencoder: a level of each channel, hardly moving.

    Exact zeros would do harm: a norm of nothing has gradients of 1e9.
    """
    rng = np.random.default_rng(0)
    level = 0.5 * rng.standard_normal(channels)
    ripple = 0.02 * rng.standard_normal((shards.SILENCE_FRAMES, channels))
    return (level + ripple)[None].astype(np.float32)


def _common_silence(folders: Sequence[pathlib.Path]) -> np.ndarray:
    first, *others = [shards.read_silence(folder) for folder in folders]
    for folder, other in zip(folders[1:], others, strict=True):
        if first.shape != other.shape or not np.allclose(first, other, atol=1e-3):
            raise ValueError(
                f"{folder} was encoded by another autoencoder than {folders[0]}: their silence "
                "differs. Prepare both with the same one."
            )
    return first


def open_songs(spec: str, split: str, *, seed: int, num_frames: int = 128) -> Songs | Synthetic:
    """Opens the songs of a split, or makes up the songs of a seed.

    Args:
      spec: folders as `resolve_folders` takes them, or "synthetic".
      split: train, validation or test; made-up songs have none.
      seed: of made-up songs.
      num_frames: of the windows that made-up songs must have room for.
    """
    if spec == "synthetic":
        return Synthetic(num_frames, seed=seed)
    return Songs(resolve_folders(spec), split)
