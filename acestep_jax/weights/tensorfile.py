"""Reads and writes safetensors files, one tensor at a time.

A file is 8 bytes of header length, a JSON header (name -> dtype, shape, byte range) and the bytes.
Everything a header claims is checked against the file before a tensor is read, and what is wrong
goes into a list of problems, so that a loader can report all of it at once. A folder may hold one
file or numbered shards with an index.

Files come out as the `safetensors` library writes them: tensors ordered by dtype, then name, the
header padded with spaces to a multiple of eight. Source: the safetensors format description.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
"""Header names of the dtypes that weights may have, in the order files list them."""

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_TORCH_METADATA = {"format": "pt"}


class CheckpointError(ValueError):
    """Everything that is wrong with a checkpoint, in one message.

    Attributes:
      problems: one line each.
    """

    def __init__(self, where: str | Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__("\n  ".join([f"{where} has {count}:", *problems]))


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor's bytes are.

    Attributes:
      file: the safetensors file.
      dtype: header name, such as "BF16".
      shape: its shape.
      start: offset of its first byte in the file.
      num_bytes: length of its bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def dtype_name(dtype: Any) -> str:
    """Names a dtype as headers do: float32 -> "F32".

    Raises:
      ValueError: if weights cannot have this dtype.
    """
    for name, known in DTYPES.items():
        if known == np.dtype(dtype):
            return name
    choices = ", ".join(str(known) for known in DTYPES.values())
    raise ValueError(f"dtype {np.dtype(dtype)} cannot be stored; choose one of {choices}.")


def read_metadata(file: Path) -> dict[str, str]:
    """Reads a header's free-form strings; a file without a readable header has none."""
    values, _, _ = _parse_header(file, [])
    metadata = values.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def read_header(file: Path, problems: list[str]) -> dict[str, Stored]:
    """Lists a file's tensors.

    Args:
      file: path to a safetensors file.
      problems: receives one line for everything that is wrong with the file.

    Returns:
      The tensors whose bytes are all there, by name.
    """
    values, body_start, body_bytes = _parse_header(file, problems)
    tensors, spans = {}, []
    for name, value in values.items():
        if name == "__metadata__":
            continue
        stored = _read_entry(file, name, value, body_start, problems)
        if stored is None:
            continue
        spans.append((stored.start, stored.start + stored.num_bytes, name))
        if stored.start + stored.num_bytes > body_start + body_bytes:
            have = max(0, body_start + body_bytes - stored.start)
            problems.append(
                f"truncated: {name} has {min(have, stored.num_bytes)} of {stored.num_bytes} bytes "
                f"in {file.name}"
            )
        else:
            tensors[name] = stored
    if values:
        _check_spans(file, spans, body_start, body_start + body_bytes, problems)
    return tensors


def _parse_header(file: Path, problems: list[str]) -> tuple[dict[str, Any], int, int]:
    """Returns (header, offset of the first tensor byte, number of tensor bytes)."""
    total = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little") if total >= 8 else -1
        if not 0 < length <= min(total - 8, _MAX_HEADER_BYTES):
            problems.append(
                f"corrupt or truncated: {file.name} has {total} bytes, but its header claims "
                f"{length}"
                if length >= 0
                else f"truncated: {file.name} has {total} bytes, not even a header's length"
            )
            return {}, 0, 0
        text = stream.read(length)
    try:
        values = json.loads(text, object_pairs_hook=_refuse_duplicates)
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        problems.append(f"corrupt: the header of {file.name} cannot be read ({error})")
        return {}, 0, 0
    return values, 8 + length, total - 8 - length


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names given twice: {', '.join(twice)}")
    return values


def _read_entry(
    file: Path, name: str, value: Any, body_start: int, problems: list[str]
) -> Stored | None:
    """Checks one header entry by itself; what does not fit goes to `problems`."""
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [begin, end, *shape]
        sound = all(type(number) is int and number >= 0 for number in numbers)
        if not sound or not isinstance(dtype, str):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        problems.append(f"corrupt: {name} in {file.name} has the header entry {value!r}")
        return None
    if dtype not in DTYPES:
        problems.append(f"dtype: {name} in {file.name} is {dtype}; weights are {', '.join(DTYPES)}")
        return None
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != expected:
        problems.append(
            f"corrupt: {name} in {file.name} has {end - begin} bytes, but {dtype} {list(shape)} "
            f"takes {expected}"
        )
        return None
    return Stored(file, dtype, tuple(shape), body_start + begin, expected)


def _check_spans(
    file: Path, spans: list[tuple[int, int, str]], start: int, end: int, problems: list[str]
) -> None:
    """Demands that tensors follow each other without overlap and leave nothing behind."""
    position = start
    for begin, stop, name in sorted(spans):
        if begin < position:
            problems.append(f"corrupt: {name} in {file.name} overlaps the tensor before it")
        position = max(position, stop)
    if position < end:
        problems.append(f"corrupt: {file.name} has {end - position} bytes no tensor claims")


def read_tensor(stored: Stored) -> np.ndarray:
    """Reads one tensor into memory of its own.

    Raises:
      EOFError: if the file has shrunk since its header was read.
    """
    tensor = np.empty(stored.shape, DTYPES[stored.dtype])
    with open(stored.file, "rb") as stream:
        stream.seek(stored.start)
        # a byte view: bfloat16 arrays do not export Python's buffer protocol
        got = stream.readinto(tensor.reshape(-1).view(np.uint8).data)
    if got != stored.num_bytes:
        raise EOFError(f"{stored.file} ended {stored.num_bytes - got} bytes early while reading.")
    return tensor


def find_files(folder: Path, stems: Iterable[str], problems: list[str]) -> list[Path]:
    """Finds a folder's weights: `<stem>.safetensors`, or the shards of its index.

    Args:
      folder: where to look.
      stems: file names without suffix, tried in order.
      problems: receives shards that the index names but the folder lacks.
    """
    stems = tuple(stems)
    for stem in stems:
        single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return _read_index(index, problems)
    names = " or ".join(f"{stem}.safetensors (or its .index.json)" for stem in stems)
    problems.append(f"missing: {names} in {folder}")
    return []


def _read_index(index: Path, problems: list[str]) -> list[Path]:
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        # a name, not a path: an index must not lead out of its folder
        if not all(Path(shard).name == shard for shard in shards):
            raise ValueError(f"shards {shards} are not plain file names")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        problems.append(f"corrupt: {index.name} cannot be read ({error})")
        return []
    files = [index.parent / shard for shard in shards]
    problems += [f"missing: shard {file.name}" for file in files if not file.is_file()]
    return [file for file in files if file.is_file()]


def read_headers(files: Sequence[Path], problems: list[str]) -> dict[str, Stored]:
    """Merges the tensors of several files; a name in two of them is a problem."""
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, stored in read_header(file, problems).items():
            if name in tensors:
                problems.append(f"corrupt: {name} is in {tensors[name].file.name} and {file.name}")
            tensors[name] = stored
    return tensors


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """A tensor to be written.

    Attributes:
      dtype: header name.
      shape: its shape.
      make: computes its values when their turn comes, so that few are in memory at once.
    """

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Length of the bytes it will take."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_file(
    file: Path, tensors: Mapping[str, Outgoing], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes one safetensors file; it takes its name only once complete.

    Args:
      file: the target.
      tensors: what to write, by name.
      metadata: header strings; the default marks PyTorch's layout, as every release does.
    """
    order = sorted(tensors, key=lambda name: (list(DTYPES).index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata or _TORCH_METADATA)}
    position = 0
    for name in order:
        tensor, begin = tensors[name], position
        position += tensor.num_bytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, position],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    partial = file.with_name(file.name + ".partial")
    with open(partial, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in order:
            values = np.asarray(tensors[name].make(), DTYPES[tensors[name].dtype], order="C")
            if values.shape != tuple(tensors[name].shape):
                raise ValueError(f"{name} is {values.shape}, not {tensors[name].shape} as said.")
            stream.write(values.reshape(-1).view(np.uint8).data)
    os.replace(partial, file)


def write_files(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Outgoing],
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes `<stem>.safetensors`, or numbered shards and their index when they would be larger.

    Args:
      folder: made if needed; weights of the same stem already in it are replaced.
      stem: "model" or "diffusion_pytorch_model".
      tensors: what to write; shards are filled in the order of names.
      metadata: header strings of every file.
      max_shard_bytes: size of tensors a file; the default is what the released XL shards obey.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = [*folder.glob(f"{stem}-*-of-*.safetensors"), folder / f"{stem}.safetensors.index.json",
           folder / f"{stem}.safetensors"]  # fmt: skip
    shards = _split(tensors, max_shard_bytes)
    files = [folder / f"{stem}.safetensors"]
    if len(shards) > 1:
        count = len(shards)
        files = [folder / f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        write_file(file, shard, metadata)
    for file in old:
        if file not in files:
            file.unlink(missing_ok=True)
    if len(shards) > 1:
        _write_index(folder / f"{stem}.safetensors.index.json", files, shards)


def _split(tensors: Mapping[str, Outgoing], limit: int) -> list[dict[str, Outgoing]]:
    """Fills shards in the order of names, none above `limit` unless one tensor is."""
    shards: list[dict[str, Outgoing]] = [{}]
    filled = 0
    for name, tensor in sorted(tensors.items()):
        if shards[-1] and filled + tensor.num_bytes > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.num_bytes
    return shards


def _write_index(
    index: Path, files: Sequence[Path], shards: Sequence[Mapping[str, Outgoing]]
) -> None:
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.values())
    weight_map = {
        name: file.name for file, shard in zip(files, shards, strict=True) for name in shard
    }
    values = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    index.write_text(json.dumps(values, indent=2) + "\n")
