"""Shards of prepared songs: ArrayRecord files, one song a record, and a table beside them.

A folder of shards holds

    dataset.json             schema version, rate, channels, frames of every song, licences
    silence.safetensors      "silence_latent" [1, 750, C] float32: encoded silence
    SPLIT-IIIII-of-NNNNN.arrayrecord     SPLIT is train, validation or test

A record is one safetensors buffer:

    latents            [T, C] float16   posterior mean of the mix, 25 frames a second
    std                [T, C] float16   posterior standard deviation (optional)
    stems.TRACK        [T, C] float16   posterior mean of a stem (optional)
    codes              [Q] int32        FSQ codes of the mix, 5 a second (optional)
    states.text        [N, Lt, D] float16   the text encoder's last states of N captions (optional)
    states.text_mask   [N, Lt] bool     true on tokens of the prompt
    states.lyrics      [Ll, D] float16  token embeddings of the lyrics (optional)
    states.lyric_mask  [Ll] bool
    labels             [bytes] uint8    `labels.SongLabels` as JSON, UTF-8

Prompts are tokenised when a batch is drawn, not here: task, crop and dropout change their text.
States are therefore those of the whole song with all its metadata, for trainers that want the
prompt of a frozen encoder without running it.
Records are written without time stamps or hash order, so that equal songs give equal bytes.

Command:  python -m acestep_jax.data.validate DIR      (checks every row and names the bad ones)
"""

import dataclasses
import importlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import skips
from acestep_jax.tasks import prompt

SCHEMA = 1
SILENCE_FRAMES = 750
_STEM = "stems."
_STATE = "states."
STATE_NAMES = ("text", "text_mask", "lyrics", "lyric_mask")


class BadRecord(ValueError):
    """A record that does not follow the schema; the message lists all that is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One prepared song.

    Attributes:
      labels: what is known about it.
      latents: [T, C] float16.
      std: [T, C] float16, or None.
      stems: track name to [T, C] float16.
      codes: [Q] int32, Q = ceil(T / 5), or None.
      states: `text` [N, Lt, D] float16 and `text_mask` [N, Lt], one row a caption of the labels,
        `lyrics` [Ll, D] float16 and `lyric_mask` [Ll]; all four or none.
    """

    labels: labels_lib.SongLabels
    latents: np.ndarray
    std: np.ndarray | None = None
    stems: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    codes: np.ndarray | None = None
    states: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def encode_record(record: Record) -> bytes:
    """Serialises a record.

    Raises:
      BadRecord: if it breaks the schema.
    """
    problems = record_problems(record)
    if problems:
        raise BadRecord(f"{record.labels.name}: " + "; ".join(problems))
    text = json.dumps(dataclasses.asdict(record.labels), ensure_ascii=False, sort_keys=True)
    arrays = {"latents": record.latents, "labels": np.frombuffer(text.encode(), np.uint8)}
    if record.std is not None:
        arrays["std"] = record.std
    if record.codes is not None:
        arrays["codes"] = record.codes
    arrays |= {_STEM + track: latents for track, latents in record.stems.items()}
    arrays |= {_STATE + name: state for name, state in record.states.items()}
    return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()})


def decode_record(buffer: bytes) -> Record:
    """Reads what `encode_record` wrote.

    Raises:
      BadRecord: if the buffer is no such record.
    """
    try:
        arrays = safetensors.numpy.load(buffer)
        values = json.loads(arrays.pop("labels").tobytes().decode())
        labels = labels_lib.labels_from_dict(values)
        latents = arrays.pop("latents")
    except Exception as error:  # a damaged buffer can fail in any of these parsers
        raise BadRecord(f"not a record of schema {SCHEMA}: {error}") from error
    std, codes = arrays.pop("std", None), arrays.pop("codes", None)
    return Record(labels, latents, std, _pop(arrays, _STEM), codes, _pop(arrays, _STATE))


def _pop(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    chosen = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array for name, array in chosen.items()}


def _all_finite(array: np.ndarray) -> bool:
    """Whether float16 numbers are finite, by their exponent bits: loaders ask at every read."""
    bits = np.ascontiguousarray(array).view(np.uint16) & 0x7C00
    return int(bits.max()) < 0x7C00


def record_problems(
    record: Record, channels: int | None = None, codebook: int | None = None
) -> list[str]:
    """Lists all that is wrong with a record: shapes, types, values not finite, silence.

    Args:
      record: to check.
      channels: of the latents, where known.
      codebook: number of codes, where known.
    """
    problems = []
    arrays = {"latents": record.latents, **{_STEM + k: v for k, v in record.stems.items()}}
    if record.std is not None:
        arrays["std"] = record.std
    frames = int(record.labels.seconds * units.SAMPLE_RATE + 0.5) // units.SAMPLES_PER_FRAME
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype != np.float16 or len(array) == 0:
            problems.append(f"{name} is {array.dtype}{list(array.shape)}, needs float16 [T, C]")
            continue
        if array.shape != record.latents.shape:
            problems.append(f"{name} is {list(array.shape)}, unlike the mix")
        if channels is not None and array.shape[1] != channels:
            problems.append(f"{name} has {array.shape[1]} channels, the folder has {channels}")
        if not _all_finite(array):
            frame = int(np.argwhere(~np.isfinite(array))[0, 0])
            problems.append(f"{name} is not finite, first in frame {frame}")
    if record.latents.ndim == 2 and abs(len(record.latents) - frames) > 1:
        problems.append(f"{len(record.latents)} frames for {record.labels.seconds:.2f} s of audio")
    if record.latents.size and (record.latents == record.latents[:1]).all():
        problems.append("all frames are alike: the song is silent")
    unknown = sorted(set(record.stems) - set(prompt.TRACK_NAMES))
    if unknown:
        problems.append(f"unknown stems {unknown}")
    return problems + _code_problems(record, codebook) + _state_problems(record)


def _code_problems(record: Record, codebook: int | None) -> list[str]:
    codes = record.codes
    if codes is None or len(record.latents) == 0:
        return []
    num_codes = -(-len(record.latents) // units.FRAMES_PER_CODE)
    if codes.shape != (num_codes,) or codes.dtype != np.int32:
        return [f"codes are {codes.dtype}{list(codes.shape)}, need int32[{num_codes}]"]
    if codes.min() < 0 or codes.max() >= (codebook or np.inf):
        low, high = codes.min(), codes.max()
        return [f"codes reach from {low} to {high}, of {codebook or 'so many'} from 0 on"]
    return []


def _state_problems(record: Record) -> list[str]:
    states = record.states
    if not states:
        return []
    if set(states) != set(STATE_NAMES):
        return [f"states are {sorted(states)}, need all of {STATE_NAMES} or none"]
    problems = []
    for name, mask_name, ndim in (("text", "text_mask", 3), ("lyrics", "lyric_mask", 2)):
        state, mask = states[name], states[mask_name]
        if state.ndim != ndim or state.dtype != np.float16 or mask.dtype != bool:
            problems.append(
                f"states.{name} is {state.dtype}{list(state.shape)} with a mask of {mask.dtype}, "
                f"needs float16 of {ndim} axes with bool"
            )
        elif mask.shape != state.shape[:-1]:
            problems.append(f"states.{mask_name} is {list(mask.shape)}, unlike {name}")
        elif not np.isfinite(state).all():
            problems.append(f"states.{name} is not finite")
    if len(states["text"]) != len(record.labels.captions):
        captions = len(record.labels.captions)
        problems.append(f"states.text has {len(states['text'])} rows for {captions} captions")
    return problems


def write_shards(
    folder: pathlib.Path,
    records: Mapping[str, Iterable[Record]],
    silence_latent: np.ndarray,
    about: Mapping[str, Any],
    *,
    records_per_shard: int = 256,
) -> None:
    """Writes shards for every split, and the table beside them.

    Args:
      folder: made if missing; shards already there are replaced.
      records: split to records, in the order they shall have.
      silence_latent: [1, S, C] float32.
      about: further facts for `dataset.json`, for instance licences.
      records_per_shard: a larger split is divided; so many records are in memory at once.

    Raises:
      BadRecord: if a record breaks the schema; the shards that were there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, frames = {}, {}
    for split, chosen in records.items():
        written[split], frames[split] = _write_split(folder, split, chosen, records_per_shard)
    silence = np.ascontiguousarray(silence_latent, np.float32)
    table = {
        "schema": SCHEMA,
        "frame_rate": units.FRAME_RATE,
        "channels": int(silence.shape[-1]),
        "frames": frames,
        **about,
    }
    # The table goes first and comes last: a folder that has one is whole
    (folder / "dataset.json").unlink(missing_ok=True)
    for old in folder.glob("*.arrayrecord"):
        old.unlink()
    for split, partials in written.items():
        for i, partial in enumerate(partials):
            partial.replace(folder / f"{split}-{i:05d}-of-{len(partials):05d}.arrayrecord")
    silence_file = safetensors.numpy.save({"silence_latent": silence})
    skips.write_whole(folder / "silence.safetensors", silence_file)
    text = json.dumps(table, ensure_ascii=False, sort_keys=True)
    skips.write_whole(folder / "dataset.json", f"{text}\n".encode())


def _write_split(
    folder: pathlib.Path, split: str, records: Iterable[Record], records_per_shard: int
) -> tuple[list[pathlib.Path], list[int]]:
    """Writes a split under names of its own, one shard at a time; gives them and all lengths."""
    partials, frames = [], []
    remaining = iter(records)
    while shard := list(itertools.islice(remaining, records_per_shard)):
        partials.append(folder / f"{split}-{len(partials):05d}.partial")
        _write_array_record(partials[-1], [encode_record(record) for record in shard])
        frames += [len(record.latents) for record in shard]
    return partials, frames


def _write_array_record(path: pathlib.Path, rows: Sequence[bytes]) -> None:
    # a compiled module, which type checkers do not see
    array_record_module = importlib.import_module("array_record.python.array_record_module")
    # one record a group makes random access cheap; latents are noise to a compressor
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for row in rows:
        writer.write(row)
    writer.close()


def shard_files(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Lists the shards of a split, none where the folder lacks it."""
    return sorted(folder.glob(f"{split}-*.arrayrecord"))


def read_table(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `dataset.json`.

    Raises:
      ValueError: if it was written by another version of the schema.
    """
    table = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    if table.get("schema") != SCHEMA:
        raise ValueError(
            f"{folder} has schema {table.get('schema')}, this code reads {SCHEMA}; prepare it anew."
        )
    return table


def read_silence(folder: pathlib.Path) -> np.ndarray:
    """Reads the silence latent [1, S, C] of a folder of shards."""
    return safetensors.numpy.load_file(folder / "silence.safetensors")["silence_latent"]


def validate(folder: pathlib.Path) -> Iterator[str]:
    """Yields a line for every bad row of every shard, and for every file that cannot be read."""
    from array_record.python import array_record_data_source

    try:
        table = read_table(folder)
    except (OSError, ValueError) as error:
        yield f"dataset.json: {error}"
        return
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.arrayrecord")):
        try:
            with array_record_data_source.ArrayRecordDataSource(str(path)) as source:
                rows = [source[i] for i in range(len(source))]
        except Exception as error:  # the reader's own errors share no base class
            yield f"{path.name}: cannot be read ({error})"
            continue
        split = path.name.split("-")[0]
        found[split] = found.get(split, 0) + len(rows)
        for i, row in enumerate(rows):
            for problem in _row_problems(row, table, split):
                yield f"{path.name}[{i}]: {problem}"
    for split, frames in table["frames"].items():
        if found.get(split, 0) != len(frames):
            yield f"split {split}: {found.get(split, 0)} songs, dataset.json says {len(frames)}"


def count_rows(folder: pathlib.Path) -> int:
    """Counts the records that a folder's table promises; 0 without a readable table."""
    try:
        return sum(len(frames) for frames in read_table(folder)["frames"].values())
    except (OSError, ValueError):
        return 0


def _row_problems(row: bytes, table: Mapping[str, Any], split: str) -> list[str]:
    try:
        record = decode_record(row)
    except BadRecord as error:
        return [str(error)]
    problems = record_problems(record, table["channels"], table.get("codebook"))
    if record.labels.split != split:
        problems.append(f"belongs to split {record.labels.split}")
    return [f"{record.labels.name}: {problem}" for problem in problems]
