"""How much of an autoencoder's latents follows the beat?

    python -m experiments.music.beats [--shards data/shards/own]

A diffusion model learns a tempo from what the beat explains of a latent. For songs with a known
tempo the frames are sorted by their place in the beat, and it is counted which share of the
variance the means of the places explain: of the latents themselves, of their sizes |z - mean|, and
of the logarithm of their energy in each frame. A tempo 13 % faster gives the share that is
explained by chance. The last line is one JSON object.
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from acestep_jax.data import sources
from acestep_jax.units import FRAME_RATE

PLACES = 8
"""Parts of a beat; at 120 beats a minute each lasts a frame and a half."""
WRONG = 1.13
"""No metrical level of one tempo is another's times this."""


def explained(values: np.ndarray, beats: np.ndarray) -> float:
    """Gives the share of the variance of `values` [T, C] that places in the beat explain.

    Args:
      values: one row a frame.
      beats: [T], the time of each frame in beats.
    """
    places = (beats % 1 * PLACES).astype(int)
    fitted = np.zeros_like(values)
    for place in np.unique(places):
        fitted[places == place] = values[places == place].mean(axis=0)
    total = ((values - values.mean(axis=0)) ** 2).sum()
    return float(1 - ((values - fitted) ** 2).sum() / total)


def views(latents: np.ndarray) -> dict[str, np.ndarray]:
    """Gives the latents [T, C], their sizes, and the logarithm of their energy [T, 1]."""
    centred = latents - latents.mean(axis=0)
    energy = np.log(1e-3 + np.mean(centred**2, axis=1, keepdims=True))
    return {"latents": centred, "sizes": np.abs(centred), "energy": energy}


def measure(songs: Iterable[tuple[np.ndarray, float]]) -> dict[str, dict[str, float]]:
    """Averages over songs (latents [T, C], tempo): shares at the tempo and at a wrong one.

    `memory` is the correlation of neighbouring frames, averaged over channels.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for latents, tempo in songs:
        beats = (np.arange(len(latents)) + 0.5) / FRAME_RATE * tempo / 60
        for name, values in views(latents).items():
            shares = explained(values, beats), explained(values, WRONG * beats)
            rows.setdefault(name, []).append((*shares, _memory(values)))
    names = ("tempo", "wrong", "memory")
    return {
        view: {n: round(float(v), 4) for n, v in zip(names, np.mean(row, axis=0), strict=True)}
        for view, row in rows.items()
    }


def _memory(values: np.ndarray) -> float:
    centred = values - values.mean(axis=0)
    return float(np.mean((centred[1:] * centred[:-1]).mean(axis=0) / (centred**2).mean(axis=0)))


def read(folder: pathlib.Path, split: str, count: int) -> list[tuple[np.ndarray, float]]:
    """Reads up to `count` songs with known tempo and chords, which begin on a beat."""
    songs = sources.Songs([folder], split)
    found = []
    for number in range(len(songs)):
        record = songs.record(number)
        if record.labels.bpm and record.labels.chords:
            found.append((record.latents.astype(np.float32), float(record.labels.bpm)))
        if len(found) == count:
            break
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=pathlib.Path, default=sources.EMBEDDED)
    parser.add_argument("--split", default="train")
    parser.add_argument("--songs", type=int, default=80)
    parsed = parser.parse_args(arguments)
    songs = read(parsed.shards, parsed.split, parsed.songs)
    if not songs:
        raise SystemExit(f"{parsed.shards} has no song with a tempo and chords in {parsed.split}.")
    results = measure(songs)
    print(f"{len(songs)} songs: share that the beat explains, at a wrong tempo, frame to frame")
    for view, row in results.items():
        print(f"{view:10}{row['tempo']:8.3f}{row['wrong']:8.3f}{row['memory']:8.3f}")
    print(json.dumps({"songs": len(songs)} | results))


if __name__ == "__main__":
    main()
