"""Songs of our own as files: sound, labels, and stems for a share of them.

Apart from the command, since worker processes find a function by the name of its module.
"""

import functools
import pathlib
from collections.abc import Sequence

from acestep_jax.data import audio, labels, workers
from acestep_jax.data.songs import render


def write_song(folder: pathlib.Path, seed: int, *, with_stems: bool) -> pathlib.Path:
    """Renders the song of `seed` into `folder`; returns its labels, which are written last."""
    path = folder / f"{render.song_name(seed)}.json"
    if path.exists():
        return path
    song = render.render_song(seed)
    stems = {}
    if with_stems:
        for track, wave in song.stems.items():
            stems[track] = f"stems/{song.labels.name}/{track}.flac"
            audio.write_flac(folder / stems[track], wave)
    audio.write_flac(path.with_suffix(".flac"), song.mix)
    labels.save_labels(path, labels.with_stems(song.labels, stems))
    return path


def _write(folder: pathlib.Path, stems_every: int, seed: int) -> pathlib.Path:
    return write_song(folder, seed, with_stems=stems_every > 0 and seed % stems_every == 0)


def render_songs(
    folder: pathlib.Path, seeds: Sequence[int], stems_every: int, *, num_workers: int = 0
) -> None:
    """Renders the songs of `seeds`, saying now and then how far it is.

    Args:
      folder: for audio and labels.
      seeds: one a song.
      stems_every: keep stems of every n-th song; 0 for none.
      num_workers: processes; 0 works here.
    """
    write = functools.partial(_write, folder, stems_every)
    for done, _ in enumerate(workers.in_order(write, seeds, num_workers), 1):
        if done % 20 == 0 or done == len(seeds):
            print(f"rendered {done} of {len(seeds)} songs into {folder}", flush=True)
