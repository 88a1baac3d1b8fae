"""Turns released tensors into parameter trees and back.

Reading goes leaf by leaf: a leaf (often a stack of layers) is allocated once, each released tensor
is read, widened and turned straight into its row, and the finished leaf moves to its devices. The
host therefore never holds more than the leaves placed so far, one leaf and one tensor. Writing goes
tensor by tensor. Both directions are exact: bytes survive the round trip.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from acestep_jax.typing import Params
from acestep_jax.weights import tensorfile
from acestep_jax.weights.names import Entry, Path
from acestep_jax.weights.tensorfile import Outgoing, Stored

ShardingFn = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
"""(leaf path joined by "/", leaf shape) -> where the leaf shall live."""

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_EXPONENT_BITS = {
    "F32": (np.uint32, 0x7F80_0000),
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
}
_TURN_ROWS = 16  # rows copied at a time when transposing: 4 x as fast as numpy's own .T copy
_COPY_ROWS = 4096  # rows copied at a time otherwise, which bounds the temporary of a cast
_ALIGNMENT = 64  # bytes; XLA's CPU client adopts a host buffer so aligned, and copies any other


def cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts floats, exactly where the target can hold them (NaN payloads included)."""
    if values.dtype == dtype:
        return values
    if values.dtype == _BFLOAT16 and dtype == np.float32:
        wide = values.view(np.uint16).astype(np.uint32)
        return np.left_shift(wide, 16, out=wide).view(np.float32)
    if values.dtype == np.float32 and dtype == _BFLOAT16:
        bits = values.view(np.uint32)
        if not (bits & 0xFFFF).any():
            return (bits >> 16).astype(np.uint16).view(_BFLOAT16)
    return values.astype(dtype)


def is_finite(values: np.ndarray) -> bool:
    """Tells whether no value is NaN or infinite."""
    kind, mask = _EXPONENT_BITS[tensorfile.dtype_name(values.dtype)]
    return not ((values.view(kind) & kind(mask)) == mask).any()


def check_entries(
    entries: Iterable[Entry], stored: Mapping[str, Stored], problems: list[str]
) -> list[Entry]:
    """Compares what a configuration needs with what the files hold.

    Args:
      entries: every tensor there must be.
      stored: every tensor there is.
      problems: receives a line for each missing, mis-shaped or unexpected tensor.

    Returns:
      The entries whose tensors are as they should be.
    """
    entries = list(entries)
    sound = []
    for entry in entries:
        found = stored.get(entry.name)
        if found is None:
            problems.append(f"missing: {entry.name} {list(entry.shape)}")
        elif found.shape != entry.shape:
            problems.append(
                f"shape: {entry.name} is {list(found.shape)}, the configuration needs "
                f"{list(entry.shape)}"
            )
        else:
            sound.append(entry)
    expected = {entry.name for entry in entries}
    problems += [
        f"unexpected: {name} {list(stored[name].shape)} in {stored[name].file.name}"
        for name in stored
        if name not in expected
    ]
    return sound


def check_values(
    entries: Iterable[Entry], stored: Mapping[str, Stored], problems: list[str]
) -> None:
    """Adds a line to `problems` for each tensor that holds NaN or infinity."""
    for entry in entries:
        if not is_finite(tensorfile.read_tensor(stored[entry.name])):
            problems.append(_not_finite(entry))


def _not_finite(entry: Entry) -> str:
    return f"corrupt: {entry.name} holds NaN or infinite values"


def load_params(
    entries: Sequence[Entry],
    stored: Mapping[str, Stored],
    problems: list[str],
    *,
    dtype: Any = np.float32,
    shardings: ShardingFn | None = None,
) -> dict[str, Any]:
    """Reads a parameter tree.

    Args:
      entries: the tensors, all of them present with the right shape (see `check_entries`).
      stored: where their bytes are.
      problems: receives a line for each tensor with NaN or infinite values.
      dtype: dtype of the leaves; None keeps that of the files.
      shardings: places leaves; each device receives its own shard only. Without it they go to the
        default device.

    Returns:
      Nested dictionaries of arrays.
    """
    params: dict[str, Any] = {}
    for path, group in _by_leaf(entries).items():
        kinds = [tensorfile.DTYPES[stored[entry.name].dtype] for entry in group]
        leaf = _empty(group[0].leaf_shape, np.dtype(dtype or _common(kinds)))
        for entry in group:
            values = tensorfile.read_tensor(stored[entry.name])
            if not is_finite(values):
                problems.append(_not_finite(entry))
            _fill(leaf if entry.row is None else leaf[entry.row], values, entry)
        _insert(params, path, _place(path, leaf, shardings))
    return params


def _by_leaf(entries: Iterable[Entry]) -> dict[Path, list[Entry]]:
    groups: dict[Path, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.path, []).append(entry)
    return groups


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an array whose memory XLA's CPU client can adopt without a copy."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def _common(kinds: Sequence[np.dtype]) -> np.dtype:
    """Finds a dtype that holds all of them; numpy knows none for bfloat16 beside float16."""
    return np.dtype(kinds[0] if len(set(kinds)) == 1 else np.float32)


def _fill(target: np.ndarray, values: np.ndarray, entry: Entry) -> None:
    """Writes a released tensor into its place, a few rows at a time."""
    target = target.reshape(entry.turned_shape)
    if entry.axes:
        target = target.transpose(np.argsort(entry.axes))
    rows = _TURN_ROWS if entry.axes else _COPY_ROWS
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        target[part] = cast(values[part], target.dtype)


def _place(path: Path, leaf: np.ndarray, shardings: ShardingFn | None) -> jax.Array:
    if shardings is None:
        return jax.device_put(leaf)
    sharding = shardings("/".join(path), leaf.shape)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def _insert(tree: dict[str, Any], path: Path, leaf: jax.Array) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf


def check_params(entries: Iterable[Entry], params: Params) -> list[str]:
    """Lists what keeps a tree from being written: leaves missing, mis-shaped or left over."""
    wanted = {entry.path: entry.leaf_shape for entry in entries}
    found = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    problems = []
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            need, have = wanted.get(path, "nothing"), found.get(path, "nothing")
            problems.append(f"{'/'.join(path)}: the configuration needs {need}, there is {have}")
    return problems


def outgoing(
    entries: Iterable[Entry], params: Params, dtypes: Mapping[str, str], dtype: Any = None
) -> dict[str, Outgoing]:
    """Prepares a tree for writing, in released names, shapes and orientation.

    Args:
      entries: the tensors to write; the tree must hold their leaves (see `check_params`).
      params: the tree.
      dtypes: header dtypes by tensor name, as loaded; tensors not named keep their leaf's.
      dtype: rounds every tensor to this instead.

    Returns:
      Tensors by name; their values are computed when they are written.
    """
    tensors = {}
    for entry in entries:
        leaf = params
        for key in entry.path:
            leaf = leaf[key]
        kind = dtypes.get(entry.name) if dtype is None else tensorfile.dtype_name(dtype)
        kind = kind or tensorfile.dtype_name(leaf.dtype)
        tensors[entry.name] = Outgoing(
            kind, entry.shape, _Release(entry, leaf, kind, rounding=dtype is not None)
        )
    return tensors


class _Release:
    """Computes one released tensor from its leaf when called."""

    def __init__(self, entry: Entry, leaf: Any, kind: str, *, rounding: bool) -> None:
        self._entry, self._leaf, self._kind, self._rounding = entry, leaf, kind, rounding

    def __call__(self) -> np.ndarray:
        entry, dtype = self._entry, tensorfile.DTYPES[self._kind]
        row = np.asarray(self._leaf if entry.row is None else self._leaf[entry.row])
        values = cast(row, dtype)
        if not self._rounding and not _same(cast(values, row.dtype), row):
            raise ValueError(
                f"{entry.name} was loaded as {self._kind}, but its {row.dtype} values no longer "
                f"fit; pass dtype={dtype} to round them, or dtype={row.dtype} to keep them."
            )
        turned = values.reshape(entry.turned_shape)
        if not entry.axes:
            return turned
        released = np.empty(entry.shape, dtype)
        target = released.transpose(entry.axes)
        for start in range(0, len(turned), _TURN_ROWS):
            target[start : start + _TURN_ROWS] = turned[start : start + _TURN_ROWS]
        return released


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Compares bits, so that NaN equals itself and -0 differs from 0."""
    kind, _ = _EXPONENT_BITS[tensorfile.dtype_name(second.dtype)]
    return bool(np.array_equal(first.view(kind), second.view(kind)))


def native_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Lists our own form of a tree: one tensor a leaf, named by its path, turned and stacked."""
    return [
        Entry("/".join(path), group[0].leaf_shape, path)
        for path, group in _by_leaf(entries).items()
    ]


def shapes(entries: Iterable[Entry]) -> dict[str, Any]:
    """Builds the tree of leaf shapes that entries describe, as `jax.ShapeDtypeStruct`s."""
    tree: dict[str, Any] = {}
    for path, group in _by_leaf(entries).items():
        _insert(tree, path, jax.ShapeDtypeStruct(group[0].leaf_shape, np.float32))
    return tree


def renamed(entries: Iterable[Entry], names: Iterable[str]) -> list[Entry]:
    """Gives entries other names, for layouts that store the same tensors under them."""
    pairs = zip(entries, names, strict=True)
    return [dataclasses.replace(entry, name=name) for entry, name in pairs]
