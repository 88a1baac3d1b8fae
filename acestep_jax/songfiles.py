"""Requests and songs on disk: lists of requests and sounds read, songs written with their making.

Nothing is half read or half written: a file that cannot serve is refused by name, and a song takes
its name once it is whole.
"""

import dataclasses
import functools
import json
import math
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio
from acestep_jax.tasks.pipeline import Song
from acestep_jax.tasks.request import MAX_SECONDS, Request
from acestep_jax.tasks.settings import show

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
PARTIAL = ".partial"
"""Ends the name of a file that is being written."""
_SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24"}
_LONGEST_REFERENCE = 3600.0
"""Seconds: references are read whole, and half a minute of each is heard."""
_LOUDEST = 2.0
"""Decoders of lossy files pass full scale by a little, which is clipped; this is no such file."""
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
    known = sorted({field.name for field in dataclasses.fields(Request)} | {"out"})
    for i, entry in enumerate(entries):
        unknown = [name for name in entry if name not in known]
        if unknown:
            raise BadCall(
                f"request {i} of {path} has unknown fields {show(unknown)}; "
                f"known: {', '.join(known)}."
            )
        if not isinstance(entry.get("out", ""), str):
            raise BadCall(f"request {i} of {path} has the out {show(entry['out'])}; name a file.")
    return entries


def _parse(path: pathlib.Path) -> Any:
    """Parses JSON, else YAML; YAML alone would take JSON's escaped characters apart."""
    import yaml

    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        as_json = show_error(error)
    try:
        return yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BadCall(
            f"{path} is neither JSON ({as_json}) nor YAML ({show_error(error)})."
        ) from error


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """Makes a mapping of pairs with different names.

    Raises:
      BadCall: for a name that comes twice, of which one value would be lost.
    """
    made: dict[Any, Any] = {}
    for name, value in pairs:
        if name in made:
            raise BadCall(f"{show(name)} is given twice in one mapping; keep one of the two.")
        made[name] = value
    return made


@functools.cache
def _yaml_loader() -> Any:
    """Gives the safe loader of YAML, for mappings whose names come once."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what would lose a value."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """Checks a mapping's own names; those that it merges in may be replaced."""
            _once([(key.value, value) for key, value in node.value
                   if isinstance(key, yaml.ScalarNode)])  # fmt: skip
            return super().construct_mapping(node, deep=deep)

    return Loader


def show_error(error: Exception, longest: int = 500) -> str:
    """Puts an error's message on one line, cut where it is long."""
    text = one_line(error)
    return text if len(text) <= longest else f"{text[:longest]}..."


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
        values["references"] = tuple(
            read_sound(name, longest=_LONGEST_REFERENCE) for name in values["references"]
        )
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
    stream = audio.AudioStream(path, longest=longest)
    try:
        sound = np.concatenate(list(stream))
    except audio.BadAudio as error:
        raise BadCall(f"{name}: {one_line(error)}.") from error
    if stream.loudest > _LOUDEST:
        raise BadCall(f"{name}: reaches {stream.loudest:.3g} times full scale; scale it to 1.")
    return sound


def write_song(
    path: pathlib.Path, song: Song, entry: Mapping[str, Any], call: Sequence[str] = ()
) -> None:
    """Writes a song in the format of its ending, with what made it; never half a file.

    Second by second: libsndfile 1.2.2 ends the process when it is given half a minute of Ogg at
    once.

    Args:
      path: ends in one of FORMATS; folders are made.
      song: the finished song.
      entry: the request as plain values, its sounds by their files' names.
      call: arguments of the command that name the model.

    Raises:
      BadCall: if the file cannot be written.
    """
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    made = {
        "call": list(call),
        "request": {name: value for name, value in entry.items() if name != "out"},
        "settings": dataclasses.asdict(song.settings),
    }
    partial = path.with_name(path.name + PARTIAL)
    try:
        kind = dict(format=FORMATS[path.suffix], subtype=_SUBTYPES.get(path.suffix))
        with soundfile.SoundFile(partial, "w", units.SAMPLE_RATE, channels=2, **kind) as file:
            file.comment = json.dumps(made)  # in ASCII, which every format keeps
            for start in range(0, len(song.audio), units.SAMPLE_RATE):
                block = song.audio[start : start + units.SAMPLE_RATE]
                file.write(_whole(block) if path.suffix in _SUBTYPES else block)
        partial.replace(path)
    except soundfile.LibsndfileError as error:  # a full disk, for instance
        raise BadCall(f"{path} cannot be written: {one_line(error)}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _whole(block: np.ndarray) -> np.ndarray:
    """Rounds to 24 bits in the upper part of int32: what was read from 16 bits goes back as it was.

    The library's own conversion multiplies by one less than it divides by when reading.
    """
    steps = np.round(block.astype(np.float64) * 2**23).clip(-(2**23), 2**23 - 1)
    return steps.astype(np.int32) << 8


def read_made(path: pathlib.Path) -> dict[str, Any]:
    """Reads what `write_song` noted in a file: call, request and settings.

    Raises:
      BadCall: if the file does not say.
    """
    try:
        made = json.loads(read_comment(path))
    except (OSError, ValueError) as error:
        raise BadCall(f"{path} does not say what made it: {one_line(error)}.") from error
    kinds = {"call": list, "request": dict, "settings": dict}
    if not isinstance(made, dict) or not all(
        isinstance(made.get(name), kind) for name, kind in kinds.items()
    ):
        raise BadCall(f"{path} does not say what made it; songs of this command do.")
    return made


def read_comment(path: pathlib.Path) -> str:
    """Reads a sound file's comment, "" where it has none.

    Raises:
      BadCall: if it is no sound file.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            return file.comment or _riff_comment(path)
    except soundfile.LibsndfileError as error:
        raise BadCall(f"{path} cannot be read: {one_line(error)}.") from error


def _riff_comment(path: pathlib.Path) -> str:
    """Finds LIST/INFO/ICMT of a WAV; libsndfile writes it whole and reads 2,047 bytes at most."""
    with path.open("rb") as file:
        kind = file.read(12)
        if (kind[:4], kind[8:]) != (b"RIFF", b"WAVE"):
            return ""
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"LIST":
                file.seek(4, 1)  # INFO, whose chunks follow
                continue
            if name == b"ICMT":
                return file.read(size).rstrip(b"\0").decode("utf-8", "replace")
            file.seek(size + size % 2, 1)
    return ""
