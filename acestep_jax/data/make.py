"""Makes all data of the nano family: recordings, our own songs, their shards, the embedded shards.

    1. recordings with explicit licences from Debian packages    -> DATA/audio/real
    2. our own songs with stems, words and labels                -> DATA/audio/own
    3. both encoded by the nano autoencoder                      -> DATA/shards/{real,own}
    4. some of our own songs, for the repository                 -> acestep_jax/assets/nano/shards

Every step leaves alone what is already there, so that a stopped run goes on where it stopped.
Recordings need Debian or Ubuntu and a network; without them the rest is made all the same.

Songs are encoded up to 28.16 s by default, three windows of the encoder: what the shipped weights
were trained on, and a third of the time that whole songs take.

Command:  python -m acestep_jax.data.make --data_dir data
Cost:     download 425 MB; 240 songs and 4.1 h of recordings need some 4 GB of disk.
"""

import argparse
import pathlib
import subprocess

from acestep_jax.data import fetch, prepare, shards, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.data.songs import __main__ as songs

STAGES = ("fetch", "render", "prepare", "embed")

EMBEDDED_SECONDS = 34.0
"""Longer songs stay out of the repository."""
EMBEDDED_SONGS = {"train": 28, "validation": 8}
EMBEDDED_STEMS = 4
"""Of this many embedded songs the stems' latents are kept."""


def fetch_recordings(data_dir: pathlib.Path) -> None:
    """Fetches the recordings, or says why there are none."""
    try:
        fetch.fetch(data_dir, max_seconds=180.0)
    except (fetch.NoPackageTools, subprocess.CalledProcessError) as error:
        print(f"no recordings: {error}", flush=True)


def embed_songs(source: pathlib.Path, out: pathlib.Path) -> None:
    """Copies a small choice of our own prepared songs into the repository's shards.

    Args:
      source: prepared shards of our own songs; their tests stay out.
      out: the embedded folder.
    """
    chosen = {}
    for split, count in EMBEDDED_SONGS.items():
        records = [
            record
            for record in sources.Windows([source], split, 128).all_records()
            if record.labels.seconds <= EMBEDDED_SECONDS and record.labels.licence == "own work"
        ]
        chosen[split] = [_trimmed(record, i) for i, record in enumerate(_varied(records, count))]
    about = {"licences": ["own work"]}
    shards.write_shards(out, chosen, shards.read_silence(source), about)


def _varied(records: list[shards.Record], count: int) -> list[shards.Record]:
    """Chooses songs in turn from every style, songs with stems first, then by name."""
    styles: dict[str, list[shards.Record]] = {}
    for record in sorted(records, key=lambda r: (not r.stems, r.labels.name)):
        styles.setdefault(record.labels.source.split(", ")[-1], []).append(record)
    queues = [styles[name] for name in sorted(styles)]
    chosen: list[shards.Record] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return sorted(chosen[:count], key=lambda r: (not r.stems, r.labels.name))


def _trimmed(record: shards.Record, index: int) -> shards.Record:
    """Keeps the stems of the first few songs only."""
    stems = record.stems if index < EMBEDDED_STEMS else {}
    names = {track: record.labels.stems[track] for track in stems}
    return shards.Record(labels_lib.with_stems(record.labels, names), record.latents, None, stems)


def main() -> None:
    """Runs the steps in order."""
    parser = argparse.ArgumentParser(description="Makes all data of the nano family.")
    add = parser.add_argument
    add("--data_dir", type=pathlib.Path, default="data", help="for audio and shards")
    add("--songs", type=int, default=240, help="songs of our own to render")
    add("--max_seconds", type=float, default=28.16, help="beginning taken of each song")
    add("--vae", default=str(sources.EMBEDDED.parent / "vae"), help="autoencoder's folder")
    add("--stages", nargs="*", default=STAGES, choices=STAGES, help="which steps to do")
    arguments = parser.parse_args()
    data_dir, stages = arguments.data_dir, arguments.stages
    if "fetch" in stages:
        fetch_recordings(data_dir)
    if "render" in stages:
        songs.render_songs(data_dir / "audio" / "own", range(arguments.songs), stems_every=4)
    if "prepare" in stages:
        encode = prepare.load_encoder(arguments.vae)
        for part in ("own", "real"):
            if list((data_dir / "audio" / part).glob("*.json")):
                folders = data_dir / "audio" / part, data_dir / "shards" / part
                prepare.prepare(*folders, encode, max_seconds=arguments.max_seconds)
    if "embed" in stages:
        embed_songs(data_dir / "shards" / "own", sources.EMBEDDED)


if __name__ == "__main__":
    main()
