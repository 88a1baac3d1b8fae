"""Requests and songs on disk: lists of requests and sounds read, songs written with their making.

Nothing is half read or half written: a file that cannot serve is refused by name, and a song takes
its name once it is whole.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio
from acestep_jax.tasks.pipeline import Song
from acestep_jax.tasks.request import MAX_SECONDS, Request
from acestep_jax.tasks.settings import show

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_TUPLES = ("tracks", "codes", "span", "references")


class BadCall(Exception):
    """A command line or a file of requests that cannot be followed; the message says why."""


def read_text(path: pathlib.Path) -> str:
    """Reads UTF-8 text.

    Raises:
      BadCall: if it is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadCall(f"{path} is not UTF-8 text: {error}.") from error


def read_requests(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a JSON or YAML list of requests as plain values.

    Raises:
      BadCall: if it is no such list, or an entry has a field that requests lack.
    """
    entries = _parse(path)
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


def _parse(path: pathlib.Path) -> Any:
    """Parses JSON, else YAML; YAML alone would take JSON's escaped characters apart."""
    import yaml

    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadCall(f"{path} is neither JSON nor YAML: {one_line(error)}.") from error


def one_line(error: Exception) -> str:
    """Puts an error's message on one line."""
    return " ".join(str(error).split())


def make_request(entry: Mapping[str, Any]) -> Request:
    """Builds a request, reading its sound files."""
    values = {name: value for name, value in entry.items() if name != "out"}
    for name in _TUPLES:
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if values.get("source") is not None:
        values["source"] = read_sound(values["source"], longest=MAX_SECONDS)
    if isinstance(values.get("references"), tuple):
        values["references"] = tuple(read_sound(name) for name in values["references"])
    return Request(**values)


def read_sound(name: Any, *, longest: float = math.inf) -> np.ndarray:
    """Reads a whole sound file as [W, 2] at 48 kHz.

    Raises:
      BadCall: if there is none, or it cannot be used; with its name.
    """
    if not isinstance(name, str):
        raise BadCall(f"a sound is given by the name of its file, not by a {type(name).__name__}.")
    path = pathlib.Path(name)
    if "\0" in name or not path.is_file():
        raise BadCall(f"there is no sound file {show(name)}.")
    try:
        return np.concatenate(list(audio.AudioStream(path, longest=longest)))
    except audio.BadAudio as error:
        raise BadCall(f"{name}: {one_line(error)}.") from error


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
