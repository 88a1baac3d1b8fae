"""Renders our own songs to a folder: `NAME.flac`, `NAME.json`, and stems for a share of them.

Songs already there are left alone, so that a stopped run goes on where it stopped; the song of a
seed does not depend on the others.

Command:  python -m acestep_jax.data.songs --count 400 --out data/audio/own --workers 2
Cost:     about 30 times real time on one core; 400 songs (4 h) take some 8 minutes.
"""

import argparse
import pathlib

from acestep_jax.data.songs import write


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Renders our own songs.")
    add = parser.add_argument
    add("--count", type=int, default=400, help="songs to render")
    add("--seed", type=int, default=0, help="seed of the first song; the others follow")
    add("--out", type=pathlib.Path, default="data/audio/own", help="for audio and labels")
    add("--stems_every", type=int, default=4, help="keep stems of every n-th song; 0: none")
    add("--workers", type=int, default=0, help="processes; 0 works in this one")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    write.render_songs(arguments.out, seeds, arguments.stems_every, num_workers=arguments.workers)


if __name__ == "__main__":
    main()
