"""Reads and writes `silence_latent.pt`: one tensor in PyTorch's zip format, without PyTorch.

Such a file is a zip of a pickle that says how to rebuild the tensor and of the tensor's bytes. A
pickle is a program, and Python's `pickle` would run whatever it says. The reader below executes
nothing: it is a table of the few instructions that describe one tensor, on a stack that only ever
holds numbers, strings and tuples, and refuses the rest by name.

Source: torch.serialization (zip layout, version 3) and `torch._utils._rebuild_tensor_v2`.
"""

import dataclasses
import math
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_STORAGES: dict[str, np.dtype] = {
    "torch FloatStorage": np.dtype(np.float32),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch HalfStorage": np.dtype(np.float16),
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"
_MARK = object()
_MAX_PICKLE_BYTES = 1_000_000  # one tensor takes a few hundred


class TorchFileError(ValueError):
    """The file is not a zip of exactly one tensor."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A class or function that the pickle mentions; it is compared, never looked up."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Tensor:
    dtype: np.dtype
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load_tensor(file: Path) -> np.ndarray:
    """Reads the one tensor of a `torch.save` file, contiguous and in this machine's byte order.

    Raises:
      TorchFileError: if the file is damaged, is not in the zip format, or holds anything but one
        float tensor.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(file, archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error) as error:
        raise TorchFileError(
            f"{file.name} is not a readable torch zip file ({error}); save the tensor again with "
            "torch.save."
        ) from error


def _read_archive(file: Path, archive: zipfile.ZipFile) -> np.ndarray:
    names = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFileError(f"{file.name} holds {len(pickles)} pickles named data.pkl, not one.")
    root = pickles[0].removesuffix("data.pkl")
    if names[pickles[0]].file_size > _MAX_PICKLE_BYTES:
        raise TorchFileError(f"{file.name} describes far more than one tensor.")
    tensor = _describe(file, archive.read(pickles[0]))
    entry = names.get(f"{root}data/{tensor.storage}")
    if entry is None or entry.compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"{file.name} lacks the plain bytes data/{tensor.storage}.")
    order = (
        archive.read(f"{root}byteorder").decode("ascii", "replace")
        if f"{root}byteorder" in names
        else "little"
    )
    if order not in ("little", "big"):
        raise TorchFileError(f"{file.name} has the byte order {order!r}, not little or big.")
    _check_extent(file, tensor, entry.file_size)
    values = np.frombuffer(archive.read(entry), tensor.dtype)
    if order != sys.byteorder:
        values = values.byteswap()
    strides = tuple(stride * tensor.dtype.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides)
    return np.array(view, order="C")


def _check_extent(file: Path, tensor: _Tensor, num_bytes: int) -> None:
    """Demands that the last element lies within the bytes that are there."""
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    sound = len(tensor.shape) == len(tensor.strides) and all(
        type(number) is int and number >= 0 for number in numbers
    )
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=False))
    last = tensor.offset + (reach + 1 if math.prod(tensor.shape) else 0) if sound else 0
    if not sound or last * tensor.dtype.itemsize > num_bytes:
        raise TorchFileError(
            f"{file.name} describes shape {tensor.shape} with strides {tensor.strides} from element"
            f" {tensor.offset}, which {num_bytes} bytes of {tensor.dtype} do not hold."
        )


def _describe(file: Path, program: bytes) -> _Tensor:
    """Follows the pickle's instructions as far as describing a tensor needs them."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                break
            _step(opcode.name, argument, stack, memo)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise TorchFileError(f"{file.name} is not the pickle of one tensor: {error}.") from error
    if len(stack) != 1 or not isinstance(stack[0], _Tensor):
        kind = type(stack[-1]).__name__.strip("_") if stack else "nothing"
        raise TorchFileError(f"{file.name} holds {kind}, not one tensor.")
    return stack[0]


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Performs one pickle instruction; unknown ones are refused."""
    if name in ("PROTO", "FRAME"):
        return
    if name in _PUSHES:
        stack.append(_PUSHES[name](argument))
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name == "TUPLE":
        start = len(stack) - 1 - stack[::-1].index(_MARK)
        stack[start:] = [tuple(stack[start + 1 :])]
    elif name == "STACK_GLOBAL":
        module, attribute = stack[-2:]
        stack[-2:] = [_known(f"{module} {attribute}")]
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "REDUCE":
        arguments, called = stack.pop(), stack.pop()
        stack.append(_reduce(called, arguments))
    else:
        raise ValueError(f"it uses the instruction {name}")


def _known(name: str) -> _Name:
    if name not in (_REBUILD, _ORDERED_DICT, *_STORAGES):
        raise ValueError(f"it asks for {name.replace(' ', '.')}")
    return _Name(name)


_PUSHES: dict[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _MARK,
    "GLOBAL": _known,
    "EMPTY_TUPLE": lambda _: (),
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), int),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), str),
}


def _storage(persistent_id: Any) -> tuple[np.dtype, str]:
    """Reads ("storage", kind, key, device, length): which bytes, and of which dtype."""
    tag, kind, key, _, _ = persistent_id
    if tag != "storage" or not isinstance(kind, _Name) or kind.name not in _STORAGES:
        raise ValueError("it refers to something that is not a float storage")
    return _STORAGES[kind.name], str(key)


def _reduce(called: Any, arguments: tuple) -> Any:
    """Stands in for the two calls that a tensor's pickle makes."""
    if called == _Name(_ORDERED_DICT) and arguments == ():
        return ()  # the tensor's backward hooks: none
    if called != _Name(_REBUILD):
        raise ValueError("it calls something other than a tensor's constructor")
    (dtype, storage), offset, shape, strides, *_ = arguments
    return _Tensor(dtype, storage, offset, tuple(shape), tuple(strides))


def save_tensor(file: Path, tensor: np.ndarray) -> None:
    """Writes a tensor so that `torch.load(file, weights_only=True)` returns it.

    Raises:
      ValueError: if its dtype is not one of float32, bfloat16 and float16.
    """
    tensor = np.asarray(tensor, order="C")
    kinds = {dtype: name for name, dtype in _STORAGES.items()}
    if tensor.dtype not in kinds:
        raise ValueError(f"{file.name} cannot hold {tensor.dtype}; convert to float32.")
    root = file.stem
    entries = {
        "data.pkl": _write_pickle(kinds[tensor.dtype], tensor.shape),
        "byteorder": sys.byteorder.encode(),
        "data/0": tensor.tobytes(),
        "version": b"3\n",
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            # a fixed date, so that the same tensor gives the same file
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}", (1980, 1, 1, 0, 0, 0)), content)


def _write_pickle(kind: str, shape: tuple[int, ...]) -> bytes:
    """Writes the instructions of `_rebuild_tensor_v2(storage, 0, shape, strides, False, {})`."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def mention(name: str) -> bytes:
        return b"c" + name.replace(" ", "\n").encode() + b"\n"  # GLOBAL

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()  # BINUNICODE

    def integer(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)  # LONG1 of eight bytes

    def pack(*parts: bytes) -> bytes:
        return b"(" + b"".join(parts) + b"t"  # MARK ... TUPLE

    storage = pack(
        text("storage"), mention(kind), text("0"), text("cpu"), integer(math.prod(shape))
    )
    arguments = pack(
        storage + b"Q",  # BINPERSID
        integer(0),
        pack(*map(integer, shape)),
        pack(*map(integer, strides)),
        b"\x89",  # requires_grad=False
        mention(_ORDERED_DICT) + b")R",  # no hooks
    )
    return b"\x80\x02" + mention(_REBUILD) + arguments + b"R."
