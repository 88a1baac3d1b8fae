"""The schema of the input: what a row of a table, or a song's JSON file, may say.

| column | holds | if absent |
|---|---|---|
| `audio` | path of the mix, inside the table's folder | required (a folder: the file itself) |
| `captions` | descriptions in different words, all true: a text or a list | required |
| `name` | unique; names the record | the audio file's name without its ending |
| `group` | songs that share a tune, a source or a singer; no split divides it | the name |
| `split` | train, validation or test | 90, 5 and 5 %, by hash of the group |
| `seconds` | length; checked against the audio | the audio's |
| `bpm` | whole number, 30 to 300 | unknown |
| `keyscale` | such as `C major`, `F# minor` | unknown |
| `timesignature` | 2, 3, 4 or 6, the upper number alone | unknown |
| `language` | of the lyrics, a code such as `en` | unknown |
| `instrumental` | true or false | false; true if the lyrics are `[Instrumental]` |
| `lyrics` | the sheet as text, with times where it is LRC (see `sheets`) | no words known |
| `lyrics_file` | path of a UTF-8 file with such a sheet, instead | |
| `lines`, `words`, `chords`, `timed` | as in `labels.SongLabels`, instead | |
| `stems` | object: track name to path (a table: columns `stems.vocals`, ...) | none |
| `licence`, `artist`, `title`, `source` | where the song comes from | empty |

In CSV, cells of `bpm`, `seconds`, `instrumental`, `lines`, `words`, `chords` and `stems` are JSON,
and so is a cell of `captions` that begins with `[`; an empty cell says nothing. In tensorflow
datasets `audio` and stems hold the content of audio files, and 0 and "" say nothing.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


def _whole(value: Any) -> int:
    if _number(value) != int(value):
        raise ValueError("must be a whole number")
    return int(value)


def _digit(value: Any) -> str:
    return str(value) if type(value) is int else _text(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _texts(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError("must be a text or a list of texts, none of them empty")
    return values


def _objects(**fields: Callable[[Any], Any]) -> Callable[[Any], list[dict]]:
    def read(value: Any) -> list[dict]:
        for item in value if isinstance(value, list) else [None]:
            if not isinstance(item, dict) or set(item) != set(fields):
                raise ValueError(f"must be a list of objects with {', '.join(fields)}")
            for name, read_field in fields.items():
                read_field(item[name])
        return value

    return read


def _chords(value: Any) -> list:
    pairs = isinstance(value, list) and all(
        isinstance(item, list | tuple) and len(item) == 2 for item in value
    )
    if not pairs:
        raise ValueError("must be a list of [seconds, name]")
    for start, name in value:
        _number(start), _text(name)
    return value


def _stems(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError("must be an object of track names and files")
    return value


COLUMNS: dict[str, Callable[[Any], Any]] = {
    "audio": lambda value: value,
    "captions": _texts,
    "name": _text,
    "group": _text,
    "split": _text,
    "seconds": _number,
    "bpm": _whole,
    "keyscale": _text,
    "timesignature": _digit,
    "language": _text,
    "instrumental": _flag,
    "lyrics": _text,
    "lyrics_file": _text,
    "lines": _objects(text=_text, start=_number, end=_number),
    "words": _objects(text=_text, start=_number, end=_number, line=_whole),
    "chords": _chords,
    "timed": _flag,
    "stems": _stems,
    "licence": _text,
    "artist": _text,
    "title": _text,
    "source": _text,
}
_JSON_CELLS = ("bpm", "seconds", "instrumental", "timed", "lines", "words", "chords", "stems")
_STEM = "stems."


def read_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Reads the columns of a row.

    Returns:
      What the row says, absent columns left out; and a list of everything wrong with it.
    """
    facts, problems = {}, unknown_columns(row)
    for name, read in COLUMNS.items():
        value = row.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            facts[name] = read(value)
        except (ValueError, OverflowError) as error:  # int(inf) overflows
            problems.append(f"{name} is {_short(value)}, {error}")
    problems += [f"{name} is missing" for name in ("audio", "captions") if not row.get(name)]
    given = [name for name in ("lyrics", "lyrics_file", "lines") if facts.get(name)]
    if len(given) > 1:
        problems.append(f"{' and '.join(given)} are all given; give one")
    return facts, problems


def unknown_columns(names: Mapping[str, Any] | list[str]) -> list[str]:
    """Names the columns that the schema lacks, each with its nearest relative."""
    problems = []
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name), COLUMNS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            problems.append(f"unknown column {name!r}{hint}")
    return problems


def row_of_cells(cells: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Turns the text cells of a table into a row: JSON where the schema says so.

    Returns:
      The row, and a list of the cells that are not what they should be.
    """
    row: dict[str, Any] = {}
    problems = []
    for name, cell in cells.items():
        if not cell.strip():
            continue
        if name.startswith(_STEM):
            row.setdefault("stems", {})[name.removeprefix(_STEM)] = cell
        elif name in _JSON_CELLS or (name == "captions" and cell.lstrip().startswith("[")):
            try:
                value = json.loads(cell)
            except json.JSONDecodeError:
                problems.append(f"{name} is {_short(cell)}, must be JSON")
                continue
            both = name in row and isinstance(value, dict)  # stems.TRACK came before
            row[name] = row[name] | value if both else value
        else:
            row[name] = cell
    return row, problems


def _short(value: Any) -> str:
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
