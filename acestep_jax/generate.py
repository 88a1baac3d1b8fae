"""Makes songs from the command line.

    python -m acestep_jax.generate --caption "a quiet waltz" --instrumental --out waltz.flac
    python -m acestep_jax.generate --model checkpoints/acestep-v15-turbo --requests a.yaml --out a/

A file of requests is a JSON or YAML list; each entry has the fields of `tasks.request.Request`,
with files in place of sound (`source`, `references`), and may name its own `out`. The ending of an
output chooses its format: wav, flac, ogg or mp3. Its comment holds the request and the settings, so
that the song can be made again.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from acestep_jax import units
from acestep_jax.data import audio
from acestep_jax.tasks.pipeline import Pipeline, Song
from acestep_jax.tasks.request import BadRequest, Request
from acestep_jax.tasks.settings import Settings

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_TUPLES = ("tracks", "codes", "span", "references")


class BadCall(Exception):
    """A command line or a file of requests that cannot be followed; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        entries = _entries(arguments)
        outs = _outputs(entries, arguments.out)
        requests = [_request(entry) for entry in entries]
        adapters = [read_adapter(text) for text in arguments.lora]
        pipe = Pipeline.load(arguments.model or arguments.preset)
        if adapters:
            pipe = pipe.with_adapters(*adapters, merge=arguments.merge_lora)
        settings = _settings(pipe.settings, arguments)
        songs = pipe.generate(requests, settings=settings, progress=_show)
    except (BadCall, BadRequest, audio.BadAudio, FileNotFoundError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for song, out, entry in zip(songs, outs, entries, strict=True):
        write_song(out, song, entry)
        print(f"{out}  {len(song.audio) / units.SAMPLE_RATE:.2f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m acestep_jax.generate", description="Makes songs from captions and lyrics."
    )
    add = parser.add_argument
    add("--preset", default="nano", choices=["nano"], help="weights shipped with the package")
    add("--model", default="", help="folder or hub id of other weights")
    add("--requests", type=pathlib.Path, help="JSON or YAML list of requests")
    add("--out", type=pathlib.Path, required=True, help="file; a folder for several songs")
    add("--lora", nargs="*", default=[], metavar="PATH[:WEIGHT]", help="LoRA or LoKr, several")
    add("--merge_lora", action="store_true", help="add LoRA to the kernels: quicker sampling")
    add("--caption", default="")
    add("--lyrics_file", type=pathlib.Path)
    add("--instrumental", action="store_true")
    add("--task", default="text2music")
    add("--language", default="unknown")
    add("--bpm", type=int)
    add("--keyscale", default="")
    add("--timesignature", default="")
    add("--duration", type=float)
    add("--source", help="sound file that the task starts from")
    add("--references", nargs="*", default=[], help="sound files whose sound to take on")
    add("--tracks", nargs="*", default=[])
    add("--span", nargs=2, type=float, metavar=("START", "END"), help="seconds")
    add("--cover_strength", type=float, default=1.0)
    add("--cover_noise", type=float, default=0.0)
    add("--keeping", default="balanced")
    add("--seed", type=int, default=0)
    add("--steps", type=int)
    add("--shift", type=float)
    add("--solver")
    add("--rule", help="guidance: none, cfg, apg, adg")
    add("--guidance", type=float)
    return parser


def read_adapter(text: str) -> tuple[str, float]:
    """Reads "path" or "path:weight".

    Raises:
      BadCall: if the weight is not finite.
    """
    path, mark, weight = text.rpartition(":")
    try:
        pair = (path, float(weight)) if mark else (text, 1.0)
    except ValueError:  # a path with a colon in it
        pair = (text, 1.0)
    if not math.isfinite(pair[1]):
        raise BadCall(f"the adapter {text!r} has the weight {pair[1]}; use a finite number.")
    return pair


def _entries(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Collects the requests' fields from the file, or from the command line."""
    if arguments.requests is not None:
        return read_requests(arguments.requests)
    names = {field.name for field in dataclasses.fields(Request)}
    values = {k: v for k, v in vars(arguments).items() if k in names and v not in (None, [])}
    if arguments.lyrics_file is not None:
        values["lyrics"] = _read_text(arguments.lyrics_file)
    return [values]


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadCall(f"{path} is not UTF-8 text: {error}.") from error


def read_requests(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a JSON or YAML list of requests as plain values.

    Raises:
      BadCall: if it is no such list, or an entry has a field that requests lack.
    """
    import yaml

    try:
        entries = yaml.safe_load(_read_text(path))  # JSON is YAML
    except yaml.YAMLError as error:
        raise BadCall(f"{path} is neither JSON nor YAML: {error}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadCall(f"{path} holds no list of requests, each a mapping of fields.")
    if not entries:
        raise BadCall(f"{path} holds no request.")
    known = {field.name for field in dataclasses.fields(Request)} | {"out"}
    for i, entry in enumerate(entries):
        unknown = sorted(set(map(str, entry)) - known)
        if unknown:
            raise BadCall(f"request {i} of {path} has unknown fields {unknown}; known: {known}.")
    return entries


def _request(entry: Mapping[str, Any]) -> Request:
    """Builds a request, reading its sound files."""
    values = {name: value for name, value in entry.items() if name != "out"}
    for name in _TUPLES:
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if values.get("source") is not None:
        values["source"] = audio.read_audio(pathlib.Path(values["source"]))
    if values.get("references"):
        values["references"] = tuple(
            audio.read_audio(pathlib.Path(name)) for name in values["references"]
        )
    return Request(**values)


def _outputs(entries: Sequence[Mapping[str, Any]], out: pathlib.Path) -> list[pathlib.Path]:
    """Names a file for each song.

    Raises:
      BadCall: for endings that no format has, several songs for one file, or one name twice.
    """
    if len(entries) == 1 and "out" not in entries[0] and out.suffix:
        outs = [out]
    elif out.suffix:
        raise BadCall(f"{out} is one file, and there are {len(entries)} songs; name a folder.")
    else:
        outs = [out / str(e.get("out", f"song_{i:03d}.flac")) for i, e in enumerate(entries)]
    for path in outs:
        if path.suffix not in FORMATS:
            raise BadCall(f"{path} ends in {path.suffix!r}; use one of {', '.join(FORMATS)}.")
    if len(set(outs)) < len(outs):
        raise BadCall("two songs have one output file.")
    return outs


def _settings(settings: Settings, arguments: argparse.Namespace) -> Settings:
    names = ("steps", "shift", "solver", "rule", "guidance")
    given = {name: getattr(arguments, name) for name in names}
    return dataclasses.replace(settings, **{k: v for k, v in given.items() if v is not None})


def _show(stage: str, done: int, total: int) -> None:
    print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)


def write_song(path: pathlib.Path, song: Song, entry: Mapping[str, Any]) -> None:
    """Writes a song in the format of its ending, with what made it; never half a file.

    Args:
      path: ends in one of FORMATS; folders are made.
      song: the finished song.
      entry: the request as plain values, its sounds by their files' names.
    """
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"request": dict(entry), "settings": dataclasses.asdict(song.settings)}
    partial = path.with_name(path.name + ".partial")
    try:
        with soundfile.SoundFile(
            partial, "w", units.SAMPLE_RATE, channels=2, format=FORMATS[path.suffix]
        ) as file:
            file.comment = json.dumps(made, ensure_ascii=False)
            file.write(song.audio)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
