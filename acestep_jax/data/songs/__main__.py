"""Renders our own songs to a folder: `NAME.flac`, `NAME.json`, and stems for a share of them.

Songs already there are left alone, so that a stopped run goes on where it stopped; the song of a
seed does not depend on the others.

Command:  python -m acestep_jax.data.songs --count 400 --out data/audio/own
Cost:     about 30 times real time on one core; 400 songs (4 h) take some 8 minutes.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from acestep_jax.data import audio, labels
from acestep_jax.data.songs import render

_COUNT = flags.DEFINE_integer("count", 400, "songs to render")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the first song; the others follow")
_OUT = flags.DEFINE_string("out", "data/audio/own", "folder for audio and labels")
_STEMS_EVERY = flags.DEFINE_integer("stems_every", 4, "keep the stems of every n-th song; 0: none")


def write_song(folder: pathlib.Path, seed: int, *, with_stems: bool) -> None:
    """Renders the song of `seed` into `folder`; the labels are written last."""
    path = folder / f"own-{seed:06d}.json"
    if path.exists():
        return
    song = render.render_song(seed)
    stems = {}
    if with_stems:
        for track, wave in song.stems.items():
            stems[track] = f"stems/{song.labels.name}/{track}.flac"
            audio.write_flac(folder / stems[track], wave)
    audio.write_flac(path.with_suffix(".flac"), song.mix)
    labels.save_labels(path, labels.with_stems(song.labels, stems))


def render_songs(folder: pathlib.Path, seeds: Sequence[int], stems_every: int) -> None:
    """Renders the songs of `seeds`, saying now and then how far it is."""
    for done, seed in enumerate(seeds, 1):
        write_song(folder, seed, with_stems=stems_every > 0 and seed % stems_every == 0)
        if done % 20 == 0 or done == len(seeds):
            print(f"rendered {done} of {len(seeds)} songs into {folder}", flush=True)


def main(_: Sequence[str]) -> None:
    """Runs the command line."""
    seeds = range(_SEED.value, _SEED.value + _COUNT.value)
    render_songs(pathlib.Path(_OUT.value), seeds, _STEMS_EVERY.value)


if __name__ == "__main__":
    app.run(main)
