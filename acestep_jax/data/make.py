"""Makes all data of the nano family: recordings, our own songs, their shards, the embedded shards.

    1. recordings with explicit licences from Debian packages    -> DATA/audio/real
    2. our own songs with stems, words and labels                -> DATA/audio/own
    3. both encoded by the nano autoencoder                      -> DATA/shards/{real,own}
    4. some of our own songs, for the repository                 -> acestep_jax/assets/nano/shards

Every step leaves alone what is already there, so that a stopped run goes on where it stopped.
Recordings need Debian or Ubuntu and a network; without them the rest is made all the same.

Command:  python -m acestep_jax.data.make --data_dir data
Cost:     download 425 MB; 480 songs and 4.1 h of recordings need some 4 GB of disk.
"""

import argparse
import functools
import os
import pathlib
import subprocess
from collections.abc import Sequence

from acestep_jax.data import encode, fetch, manifest, prepare, shards, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.data.songs import write as songs

STAGES = ("fetch", "render", "prepare", "embed")

EMBEDDED_SONGS = {"train": 28, "validation": 8}
EMBEDDED_STEMS = 2
"""Of so many embedded songs of each split the stems' latents are kept."""
MAX_SECONDS = 28.16
"""The beginning of each song that is encoded by default: three windows of the encoder. What the
shipped weights were trained on, in a third of the time that whole songs take."""


def fetch_recordings(data_dir: pathlib.Path) -> None:
    """Fetches the recordings, or says why there are none."""
    try:
        fetch.fetch(data_dir, max_seconds=180.0)
    except (fetch.NoPackageTools, subprocess.CalledProcessError) as error:
        print(f"no recordings: {error}", flush=True)


def embed_songs(audio_dir: pathlib.Path, out: pathlib.Path, encoders: encode.Encoders) -> None:
    """Encodes a small choice of our own songs into the repository's shards.

    Args:
      audio_dir: our own songs; those of the test split stay out.
      out: the embedded folder.
      encoders: the compiled networks.
    """
    known = [labels_lib.load_labels(path) for path in sorted(audio_dir.glob("*.json"))]
    found = {song.name: song for song in manifest.read_source(str(audio_dir))}
    records = {}
    for split, count in EMBEDDED_SONGS.items():
        songs = [labels for labels in known if labels.split == split]
        records[split] = [
            prepare.prepare_song(
                found[labels.name],
                encoders,
                prepare.Choices(stems=i < EMBEDDED_STEMS, max_seconds=MAX_SECONDS),
            )[0]
            for i, labels in enumerate(choose_varied(songs, count))
        ]
    silence = encode.silence_latent(encoders.latents)
    shards.write_shards(out, records, silence, {"licences": ["own work"]})


def choose_varied(
    songs: Sequence[labels_lib.SongLabels], count: int
) -> list[labels_lib.SongLabels]:
    """Chooses songs in turn from every style, those with stems first, then by name."""
    styles: dict[str, list[labels_lib.SongLabels]] = {}
    for labels in sorted(songs, key=lambda labels: (not labels.stems, labels.name)):
        styles.setdefault(labels.source.split(", ")[-1], []).append(labels)
    queues = [styles[name] for name in sorted(styles)]
    chosen: list[labels_lib.SongLabels] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return sorted(chosen[:count], key=lambda labels: (not labels.stems, labels.name))


def main() -> None:
    """Runs the steps in order."""
    parser = argparse.ArgumentParser(description="Makes all data of the nano family.")
    add = parser.add_argument
    add("--data_dir", type=pathlib.Path, default="data", help="for audio and shards")
    add("--songs", type=int, default=480, help="songs of our own to render")
    add("--max_seconds", type=float, default=MAX_SECONDS, help="beginning taken of each song")
    add("--vae", default=str(sources.EMBEDDED.parent / "vae"), help="autoencoder's folder")
    add("--stems", action="store_true", help="encode stems too, where there are any")
    add("--stages", nargs="*", default=STAGES, choices=STAGES, help="which steps to do")
    most = min(os.cpu_count() or 1, 8)
    add("--workers", type=int, default=most, help="processes that render; 0 renders in this one")
    arguments = parser.parse_args()
    data_dir, stages = arguments.data_dir, arguments.stages
    make_encoders = functools.partial(encode.load_encoders, arguments.vae)
    if "fetch" in stages:
        fetch_recordings(data_dir)
    if "render" in stages:
        own, seeds = data_dir / "audio" / "own", range(arguments.songs)
        songs.render_songs(own, seeds, stems_every=4, num_workers=arguments.workers)
    if "prepare" in stages:
        choices = prepare.Choices(stems=arguments.stems, max_seconds=arguments.max_seconds)
        for part in ("own", "real"):
            if list((data_dir / "audio" / part).glob("*.json")):
                found = manifest.read_source(str(data_dir / "audio" / part))
                prepare.prepare(found, data_dir / "shards" / part, make_encoders, choices)
    if "embed" in stages:
        embed_songs(data_dir / "audio" / "own", sources.EMBEDDED, make_encoders())


if __name__ == "__main__":
    main()
