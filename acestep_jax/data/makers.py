"""The project's own songs one by one, each made on its own: for builds that run in parallel.

Songs are kept in a folder of their own, the cache, and are left alone when they are there: a build
that was killed makes only the rest. A song depends on its seed, or its recording, alone.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from acestep_jax.data import fetch
from acestep_jax.data import labels as labels_lib
from acestep_jax.data.audio import BadAudio
from acestep_jax.data.songs import render
from acestep_jax.data.songs import write as songs

Example = tuple[str, dict[str, Any]]
"""A key, unique in the dataset, and the features."""


class Wanted(Protocol):
    """The fields that are read from `tfds_songs.SongsConfig`."""

    kind: str
    songs: int
    first_seed: int
    max_seconds: float


@dataclasses.dataclass(frozen=True)
class Maker:
    """One song that can be made: in which split it will be, and how; picklable.

    `make` takes a folder and returns the song's labels there, or raises `BadAudio`.
    """

    name: str
    split: str
    make: Callable[[pathlib.Path], pathlib.Path]
    cache: str

    def examples(self) -> Iterator[Example]:
        """Yields the example; a bad song is named and left out."""
        with tempfile.TemporaryDirectory() as passing:
            try:
                path = self.make(pathlib.Path(self.cache or passing))
                yield self.name, example_of(path)
            except (BadAudio, ValueError) as error:
                print(f"skipped {self.name}: {error}", flush=True)


def list_makers(config: Wanted, cache: str) -> list[Maker]:
    """Lists the songs of a configuration.

    Args:
      config: which.
      cache: folder of single songs, or "".

    Raises:
      NoPackageTools: if recordings are wanted where there are no Debian packages.
    """
    if config.kind == "recordings":
        return _recordings(config, cache)
    sung = config.kind == "sung"
    folder = str(pathlib.Path(cache, config.kind)) if cache else ""  # stems differ
    seeds = range(config.first_seed, config.first_seed + config.songs)
    makers = []
    for seed in seeds:
        score, singer, _ = render.choose_score(seed)
        if singer is not None or not sung:
            split = labels_lib.split_of(render.melody_group(score.tune))
            make = functools.partial(_render, seed=seed, with_stems=sung or seed % 4 == 0)
            makers.append(Maker(render.song_name(seed), split, make, folder))
    return makers


def _recordings(config: Wanted, cache: str) -> list[Maker]:
    chosen = fetch.load_catalogue()[: config.songs]
    packages = pathlib.Path(cache or tempfile.mkdtemp(), "packages").absolute()
    names = sorted({recording.package for recording in chosen})
    fetch.download_packages(names, packages)
    roots = {name: fetch.unpack_package(name, packages) for name in names}
    return [
        Maker(
            recording.name,
            labels_lib.split_of(recording.name),
            functools.partial(_decode, recording, roots[recording.package], config.max_seconds),
            cache and str(pathlib.Path(cache, config.kind, f"{config.max_seconds:g}s")),
        )
        for recording in chosen
    ]


def _decode(
    recording: fetch.Recording, root: pathlib.Path, max_seconds: float, folder: pathlib.Path
) -> pathlib.Path:
    return fetch.fetch_recording(recording, root, folder, max_seconds)


def _render(folder: pathlib.Path, *, seed: int, with_stems: bool) -> pathlib.Path:
    return songs.write_song(folder, seed, with_stems=with_stems)


def example_of(path: pathlib.Path) -> dict[str, Any]:
    """Reads a song in its folder, `NAME.json` beside `NAME.flac`, as an example."""
    labels = labels_lib.load_labels(path)
    values = dataclasses.asdict(labels) | {
        "bpm": labels.bpm or 0,
        "keyscale": labels.keyscale or "",
        "timesignature": labels.timesignature or "",
        "chords": [{"start": start, "name": name} for start, name in labels.chords],
        "audio": path.with_suffix(".flac").read_bytes(),
        "stems": [
            {"track": track, "audio": (path.parent / name).read_bytes()}
            for track, name in sorted(labels.stems.items())
        ],
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
