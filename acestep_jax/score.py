"""Scores how well a song sings its lyrics, and writes when it sings them.

    python -m acestep_jax.score song.flac --lyrics_file words.txt --language en [--lrc out.lrc]

Prints the alignment score and its parts (`ops.alignment`), and the score of the conditions alone. A
song that was made by `acestep_jax.generate` needs no more than its file, whose comment holds the
request; what is given on the command line counts first. Compare scores of one song's takes, not
those of different lyrics.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from acestep_jax import compilation, songfiles, units
from acestep_jax.songfiles import BadCall
from acestep_jax.tasks import alignment, timestamps
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.pipeline import Pipeline
from acestep_jax.tasks.request import Request

_GRAIN = units.FRAMES_PER_CODE
"""Songs are cut to whole fifths of a second, which requests can name."""


def main(
    argv: Sequence[str] | None = None, *, load: Callable[..., Pipeline] = Pipeline.load
) -> int:
    """Runs the command; returns the exit status.

    Args:
      argv: arguments; those of the process by default.
      load: makes the pipeline.
    """
    arguments = _parser().parse_args(argv)
    compilation.enable_cache()
    try:
        sound = songfiles.read_sound(arguments.song)
        entry = _entry(arguments)
        pipe = load(arguments.model or "nano")
        latents = pipe.encode(sound, jax.random.key(arguments.seed))
        latents = latents[: len(latents) // _GRAIN * _GRAIN]
        entry["duration"] = len(latents) / units.FRAME_RATE
        request = songfiles.make_request(entry)
        ear, reading = _open_ear(arguments, pipe)
        (verdict,) = alignment.judge(ear, [request], [latents], reading)
        for name, value in dataclasses.asdict(verdict).items():
            print(f"{name:<18}{value:.4f}")
        if arguments.lrc is not None:
            arguments.lrc.write_text(_lrc(arguments, ear, request, latents, reading), "utf-8")
            print(f"{arguments.lrc}")
    except (BadCall, ValueError, OSError) as error:  # BadRequest is a ValueError
        print(f"{type(error).__name__}: {songfiles.one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m acestep_jax.score", description="Scores how well a song sings its lyrics."
    )
    add = parser.add_argument
    add("song", help="sound file of 10 to 600 seconds")
    add("--model", default="", help="folder or hub id of the model; nano by default")
    add("--aligner", default="", help="folder or hub id of who listens; the model's by default")
    add("--lyrics_file", type=pathlib.Path, help="by default what the song's comment says")
    add("--caption")
    add("--language", help="of the lyrics, for instance en")
    add("--heads", type=pathlib.Path, help="JSON of the heads that listen; the model's by default")
    add("--steps", type=int, default=8, help="listen at t = 1 / steps")
    add("--draws", type=int, default=4, help="draws of noise that are averaged")
    add("--seed", type=int, default=0, help="of the autoencoder's draw")
    add("--lrc", type=pathlib.Path, help="write the lines with their times")
    add("--words", action="store_true", help="times of words instead of lines")
    return parser


def _entry(arguments: argparse.Namespace) -> dict[str, Any]:
    """Collects the request that the song is scored under."""
    entry = _comment(arguments.song)
    given = {"caption": arguments.caption, "language": arguments.language}
    entry |= {name: value for name, value in given.items() if value is not None}
    if arguments.lyrics_file is not None:
        entry |= {"lyrics": songfiles.read_text(arguments.lyrics_file), "instrumental": False}
    if not entry.get("lyrics"):
        raise BadCall("there are no lyrics; name a --lyrics_file.")
    return entry


def _comment(song: str) -> dict[str, Any]:
    """Reads what made a song from its file: text and codes, without other sounds."""
    try:
        made = json.loads(songfiles.read_comment(pathlib.Path(song)))["request"]
    except (ValueError, KeyError, TypeError):  # somebody else's file
        return {}
    known = {field.name for field in dataclasses.fields(Request)}
    edits = {"task", "span", "tell_span", "tracks", "keeping", "cover_codes", "instruction"}
    sounds = {"source", "references", "duration", "cover_strength", "cover_noise"}
    return {name: value for name, value in made.items() if name in known - sounds - edits}


def _open_ear(arguments: argparse.Namespace, pipe: Pipeline) -> tuple[Pipeline, Reading]:
    if arguments.steps < 1:
        raise BadCall(f"--steps {arguments.steps}; use 1 or more.")
    named = None if arguments.heads is None else alignment.read_heads(arguments.heads)
    ear, heads = alignment.open_ear(
        pipe, arguments.model or "nano", aligner=arguments.aligner, heads=named
    )
    return ear, Reading(heads, t=1 / arguments.steps, draws=arguments.draws)


def _lrc(
    arguments: argparse.Namespace,
    pipe: Pipeline,
    request: Request,
    latents: np.ndarray,
    reading: Reading,
) -> str:
    lines, words = alignment.time_lyrics(pipe, request, latents, reading)
    return timestamps.lrc(words if arguments.words else lines, carry=True) + "\n"


if __name__ == "__main__":
    sys.exit(main())
