"""Reads what shall be prepared: a folder, a CSV, a JSON-lines file, a tensorflow dataset.

    FOLDER           NAME.flac (or .wav .ogg .opus .mp3) with NAME.json, or with NAME.txt (captions,
                     blank lines between them) and, where there is one, NAME.lrc or NAME.lyrics.txt
    songs.csv        one song a row; paths are relative to the file
    songs.jsonl      one JSON object a line; paths are relative to the file
    tfds:NAME        a tensorflow dataset, by name or by the folder it was built in

`columns` documents the schema. A row that cannot serve comes back as a `BadRow` with its reason,
for the caller to count; nothing is guessed, and no path may lead out of the table's folder.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from acestep_jax.data import audio, columns, sheets
from acestep_jax.data import labels as labels_lib

ENDINGS = (".flac", ".wav", ".ogg", ".opus", ".mp3")
_TFDS = "tfds:"
_MAX_CELL = 1 << 24  # lyrics with word times outgrow csv's default of 131,072 characters


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its name as far as known, its place, and the reason."""

    name: str
    where: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Song:
    """One song of the input, checked as far as that goes without decoding it.

    Attributes:
      name: unique among all songs.
      where: file and row that it comes from.
      facts: its columns, without those of files.
      audio: the mix.
      stems: track name to file.
    """

    name: str
    where: str
    facts: Mapping[str, Any]
    audio: audio.Sound
    stems: Mapping[str, audio.Sound] = dataclasses.field(default_factory=dict)

    def digest(self) -> str:
        """Identifies the song's facts and files; changed files have another size or time."""
        files = {"": self.audio, **self.stems}
        content = [self.facts, {track: _identity(sound) for track, sound in files.items()}]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def labels(self, seconds: float) -> labels_lib.SongLabels:
        """Completes the facts to labels.

        Args:
          seconds: length of the audio, where the facts do not give one.

        Raises:
          BadAudio: if the facts say another length.
          ValueError: if the labels contradict themselves.
        """
        facts = {"seconds": seconds, "group": self.name, **self.facts, "name": self.name}
        if abs(facts["seconds"] - seconds) > 0.1:
            raise audio.BadAudio(f"lasts {seconds:.2f} s, its labels say {facts['seconds']:.2f} s")
        facts.setdefault("split", labels_lib.split_of(facts["group"]))
        facts["stems"] = {
            track: str(sound) if isinstance(sound, pathlib.Path) else "in the dataset"
            for track, sound in self.stems.items()
        } | dict(self.facts.get("stems", {}))
        lyrics = facts.pop("lyrics", None)
        if lyrics is None:
            return labels_lib.labels_from_dict(facts)
        sheet = sheets.parse_sheet(lyrics, facts["seconds"])
        facts["instrumental"] = facts.get("instrumental", False) or sheet.instrumental
        known = labels_lib.labels_from_dict(facts)
        return dataclasses.replace(known, lines=sheet.lines, words=sheet.words, timed=sheet.timed)


def _identity(sound: audio.Sound) -> Any:
    if isinstance(sound, bytes):
        return hashlib.sha256(sound).hexdigest()
    try:
        found = sound.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def read_source(
    source: str, *, recursive: bool = False, root: str = "", data_dir: str | None = None
) -> Sequence[Song | BadRow]:
    """Lists the songs of a source, in a fixed order.

    Args:
      source: a folder, a .csv, a .jsonl, or `tfds:` with a dataset's name or folder.
      recursive: look into a folder's subfolders too, but for those named `stems`.
      root: folder that no path of a table may leave; by default that of the table.
      data_dir: where tensorflow datasets lie.

    Raises:
      FileNotFoundError: if there is no such source.
      ValueError: if it is none of these kinds, or a table has columns that the schema lacks.
    """
    if source.startswith(_TFDS):
        from acestep_jax.data import tfds_source

        return tfds_source.TfdsSongs(source.removeprefix(_TFDS), data_dir)
    path = pathlib.Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source} does not exist; give a folder, a .csv or a .jsonl.")
    if path.is_dir():
        return _without_duplicates(_folder_rows(path, recursive), path, pathlib.Path(root or path))
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{source} is neither a folder nor a .csv nor a .jsonl nor tfds:NAME.")
    rows = readers[path.suffix.lower()](path)
    return _without_duplicates(rows, path.parent, pathlib.Path(root or path.parent))


Row = tuple[str, dict[str, Any], list[str]]
"""Where it stands, what it says, and what was wrong with its form."""


def _without_duplicates(
    rows: Iterable[Row], folder: pathlib.Path, root: pathlib.Path
) -> list[Song | BadRow]:
    songs: list[Song | BadRow] = []
    seen: dict[str, str] = {}
    for where, row, problems in rows:
        song = make_song(where, row, problems, folder, root)
        if isinstance(song, Song) and song.name in seen:
            reason = f"name {song.name!r} was used before, by {seen[song.name]}"
            song = BadRow(song.name, where, reason)
        elif isinstance(song, Song):
            seen[song.name] = where
        songs.append(song)
    return songs


def make_song(
    where: str,
    row: Mapping[str, Any],
    problems: Sequence[str] = (),
    folder: pathlib.Path = pathlib.Path(),
    root: pathlib.Path | None = None,
) -> Song | BadRow:
    """Checks a row and finds its files.

    Args:
      where: for messages.
      row: columns of the schema; audio and stems are paths or the content of files.
      problems: known already.
      folder: that paths are relative to.
      root: that they may not leave; by default `folder`.
    """
    facts, found = columns.read_row(row)
    problems = [*problems, *found]
    mix, stems = facts.pop("audio", None), facts.pop("stems", {})
    sounds: dict[str, audio.Sound] = {}
    for track, value in {"audio": mix, **stems}.items() if mix is not None else ():
        try:
            sounds[track] = value if isinstance(value, bytes) else _inside(folder, root, value)
        except ValueError as error:
            problems.append(f"{track}: {error}")
    sound = sounds.pop("audio", None)
    if isinstance(sound, pathlib.Path) and not sound.is_file():
        problems.append(f"audio: there is no file {mix}")
    name = facts.pop("name", sound.stem if isinstance(sound, pathlib.Path) else "")
    problems += labels_lib.name_problems(name)
    facts = _with_lyrics(facts, folder, root, problems)
    if problems or sound is None:
        return BadRow(str(name) or where, where, "; ".join(problems))
    named = {track: str(path) for track, path in stems.items() if isinstance(path, str)}
    return Song(name, where, facts | ({"stems": named} if named else {}), sound, sounds)


def _with_lyrics(
    facts: dict[str, Any], folder: pathlib.Path, root: pathlib.Path | None, problems: list[str]
) -> dict[str, Any]:
    file = facts.pop("lyrics_file", None)
    if file is None:
        return facts
    try:
        return facts | {"lyrics": read_text(_inside(folder, root, file))}
    except (ValueError, OSError) as error:
        problems.append(f"lyrics_file: {error}")
        return facts


def _inside(folder: pathlib.Path, root: pathlib.Path | None, value: Any) -> pathlib.Path:
    """Resolves a path of a table, by its words alone: links are the owner's business."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is no path")
    base = os.path.abspath(folder if root is None else root)
    path = os.path.abspath(folder / value)
    if path != base and not path.startswith(base.rstrip(os.sep) + os.sep):
        raise ValueError(f"{value!r} leads out of {folder if root is None else root}")
    return pathlib.Path(os.path.normpath(folder / value))


def read_text(path: pathlib.Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark.

    Raises:
      ValueError: if it is not UTF-8; says where.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(
            f"{path.name} is not UTF-8 (byte {byte:#04x} at {error.start}); convert it"
        ) from error


def _folder_rows(folder: pathlib.Path, recursive: bool) -> Iterator[Row]:
    files = sorted(folder.rglob("*") if recursive else folder.iterdir())
    files = [f for f in files if "stems" not in f.relative_to(folder).parts[:-1] and f.is_file()]
    labelled = {f.with_suffix("") for f in files if f.suffix == ".json"}
    if not any(f.suffix.lower() in (".json", *ENDINGS) for f in files):
        raise FileNotFoundError(
            f"{folder} holds no songs (NAME.flac with NAME.json, or with NAME.txt)."
        )
    for file in files:
        if file.suffix == ".json":
            yield _labelled_row(folder, file)
        elif file.suffix.lower() in ENDINGS and file.with_suffix("") not in labelled:
            yield _plain_row(folder, file)


def _labelled_row(folder: pathlib.Path, file: pathlib.Path) -> Row:
    where = str(file.relative_to(folder))
    row, problems = _json_object(file.read_bytes())
    if not problems and "audio" not in row:
        found = [e for e in ENDINGS if file.with_suffix(e).is_file()]
        if len(found) != 1:
            problems.append(f"there are {len(found)} audio files beside {where}, needs one")
        row["audio"] = file.with_suffix(found[0] if found else ENDINGS[0]).name
    row.setdefault("name", file.stem)
    parent = file.parent.relative_to(folder)
    for name in ("audio", "lyrics_file"):
        if isinstance(row.get(name), str):
            row[name] = str(parent / row[name])
    if isinstance(row.get("stems"), dict):
        row["stems"] = {k: str(parent / str(v)) for k, v in row["stems"].items()}
    return where, row, problems


def _plain_row(folder: pathlib.Path, file: pathlib.Path) -> Row:
    inside = file.relative_to(folder)
    row: dict[str, Any] = {"audio": str(inside), "name": "_".join(inside.with_suffix("").parts)}
    problems = []
    caption = file.with_suffix(".txt")
    try:
        paragraphs = read_text(caption).replace("\r\n", "\n").split("\n\n")
        row["captions"] = [" ".join(p.split()) for p in paragraphs if p.strip()]
    except FileNotFoundError:
        problems.append(f"there is no {caption.name} with its caption, nor a {file.stem}.json")
    except ValueError as error:
        problems.append(str(error))
    for lyrics in (file.with_suffix(".lrc"), file.with_suffix(".lyrics.txt")):
        if lyrics.is_file():
            row["lyrics_file"] = str(lyrics.relative_to(folder))
            break
    return str(inside), row, problems


def _json_object(content: bytes) -> tuple[dict[str, Any], list[str]]:
    try:
        row = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return {}, [f"is not UTF-8 (byte {content[error.start]:#04x} at {error.start})"]
    except (json.JSONDecodeError, RecursionError) as error:
        return {}, [f"is not JSON: {error}"]
    return (row, []) if isinstance(row, dict) else ({}, ["is no JSON object"])


def _jsonl_rows(path: pathlib.Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path.name}:{number}", *_json_object(line)


def _csv_rows(path: pathlib.Path) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    unknown = columns.unknown_columns([name for name in header if not name.startswith("stems.")])
    if unknown:
        raise ValueError(f"{path.name}: {'; '.join(unknown)}.")
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path.name}:{start}", {}, [f"is no row of a table: {error}"]
            continue
        if cells:
            yield f"{path.name}:{start}", *_row_of_cells(header, cells)


def _row_of_cells(header: Sequence[str], cells: Sequence[str]) -> tuple[dict, list[str]]:
    if len(cells) != len(header):
        return {}, [f"has {len(cells)} cells, the header {len(header)}"]
    foreign = [
        name
        for name, cell in zip(header, cells, strict=True)
        if any("\ud800" <= letter <= "\udfff" for letter in cell)
    ]
    if foreign:
        return {}, [f"{name} is not UTF-8" for name in foreign]
    return columns.row_of_cells(dict(zip(header, cells, strict=True)))
