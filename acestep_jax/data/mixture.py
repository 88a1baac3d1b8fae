"""What training consists of: tasks, shapes and folders, each in its share.

Every batch has one shape, a *bucket*: so many frames, so much room for lyrics, so many examples. A
song belongs to the smallest bucket that holds it whole; songs longer than the largest are cut into
windows of it. Batches of the buckets alternate in fixed proportions, such that each window of each
folder comes as often as the folder's weight asks, whatever its bucket.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from acestep_jax.data import sources
from acestep_jax.data.windows import Windows
from acestep_jax.tasks import edits


class Task(NamedTuple):
    """The task of one example, and the recordings of the song that it is made of.

    Attributes:
      name: one of `edits.TASKS`.
      wanted: the task drawn at first; another than `name` if the song could not teach it.
      generated, source: track names; "" is the mix.
      tracks: named in the instruction.
    """

    name: str
    wanted: str
    generated: str = ""
    source: str = ""
    tracks: tuple[str, ...] = ()


def draw_task(
    stems: Sequence[str], weights: Sequence[tuple[str, float]], rng: np.random.Generator
) -> Task | None:
    """Draws a task by weight, and its tracks.

    A task that the song's stems do not allow is drawn again among those they do, by the same
    weights: songs without stems teach more of the other tasks, they are not left out. None if the
    song allows none of the weighted tasks.

        extract    mix -> one stem
        lego       another stem -> one stem
        complete   one stem -> mix, the other stems named

    The release also completes several tracks, and adds one to a mix of many: sums of stems have no
    latents in the shards, so that both start from single stems here.

    Args:
      stems: the tracks that are known.
      weights: (task, weight) pairs.
      rng: draws.
    """
    possible = edits.possible_tasks(stems)
    wanted = name = _choose(dict(weights), rng)
    if wanted not in possible:
        allowed = {task: weight for task, weight in weights if task in possible}
        if not sum(allowed.values()):
            return None
        name = _choose(allowed, rng)
    if name not in edits.STEM_TASKS:
        return Task(name, wanted)
    first, *others = (str(track) for track in rng.permutation(sorted(stems)))
    return {
        "extract": Task(name, wanted, first, "", (first,)),
        "lego": Task(name, wanted, first, others[0] if others else "", (first,)),
        "complete": Task(name, wanted, "", first, tuple(sorted(others))),
    }[name]


def _choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]


def draw_span(
    num_frames: int, share: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int]:
    """Draws the frames [start, end) to repaint.

    The length is uniform between two shares of the clip; a sixth of the spans each begin at its
    first frame or end at its last, as out-painting does; the others lie anywhere between. The
    release's law is not known.
    """
    length = min(num_frames, max(1, round(rng.uniform(*share) * num_frames)))
    place = min(max(1.5 * rng.random() - 0.25, 0.0), 1.0)
    start = round(place * (num_frames - length))
    return start, start + length


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The shape of a batch: latent frames, room for the lyric prompt, examples."""

    num_frames: int
    lyric_tokens: int
    batch_size: int


class Stream(NamedTuple):
    """The examples of one bucket from one folder (or several, heard in proportion).

    Attributes:
      bucket: number of the bucket.
      windows: what they are cut from.
      share: of all examples.
    """

    bucket: int
    windows: Windows
    share: float


def assign(frames: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """Gives each song, by its length, the number of the smallest bucket that holds it, or the last.

    Args:
      frames: [N] length of every song.
      buckets: by rising length.
    """
    limits = [bucket.num_frames for bucket in buckets[:-1]]
    return np.searchsorted(limits, frames, side="left")


def plan(
    songs: sources.SongSource, buckets: Sequence[Bucket], folder_weights: Sequence[float] = ()
) -> list[Stream]:
    """Lays out who reads what: a stream for each bucket and folder that have songs in common.

    Args:
      songs: of all folders.
      buckets: by rising length.
      folder_weights: share of the examples from each folder, of any sum; empty hears all windows of
        all folders equally often.

    Raises:
      ValueError: if no song is left.
    """
    places = assign(songs.frames, buckets)
    groups = songs.folder_of if folder_weights else np.zeros_like(songs.folder_of)
    streams = []
    for group, weight in enumerate(folder_weights or (1.0,)):
        cut = [
            Windows(songs, np.flatnonzero((groups == group) & (places == i)), b.num_frames)
            for i, b in enumerate(buckets)
        ]
        total = sum(map(len, cut))
        streams += [
            Stream(number, windows, weight * len(windows) / total)
            for number, windows in enumerate(cut)
            if len(windows) and weight
        ]
    if not streams:
        raise ValueError(f"data.shard_weights={tuple(folder_weights)} leave no songs to read.")
    return streams


def batch_shares(streams: Sequence[Stream], buckets: Sequence[Bucket]) -> list[float]:
    """Gives each bucket's share of the batches: its share of the examples over its batch size."""
    rates = [
        math.fsum(stream.share for stream in streams if stream.bucket == number) / bucket.batch_size
        for number, bucket in enumerate(buckets)
    ]
    return [rate / math.fsum(rates) for rate in rates]


def describe(streams: Sequence[Stream], buckets: Sequence[Bucket]) -> str:
    """Tells each bucket's share of the batches and how much of it is padding."""
    lines = []
    for number, (bucket, share) in enumerate(zip(buckets, batch_shares(streams, buckets))):
        own = [stream for stream in streams if stream.bucket == number]
        total = math.fsum(stream.share for stream in own)
        filled = math.fsum(stream.share * stream.windows.filled for stream in own)
        padding = f"{1 - filled / total:.0%} padding" if own else "no songs"
        lines.append(
            f"{bucket.batch_size} x {bucket.num_frames} frames: {share:.1%} of batches, {padding}"
        )
    return "; ".join(lines)
