"""What a compiled program moves between devices, read from its text.

    program = step.lower(*arguments).compile()
    moved = collectives.read(program.as_text())
    sum(c.received for c in moved)            # bytes that each device receives, once a call

A collective in a loop counts once a turn. The bytes received by one of n devices, by the ring
algorithms that reach the lower bounds (Chan et al. 2007, doi:10.1002/cpe.1206):

    all-gather (n-1)/n of its output     reduce-scatter (n-1)/n of its input     permute: all of it
    all-to-all (n-1)/n of its input      all-reduce 2 (n-1)/n: a reduce-scatter and an all-gather

XLA for processors has no pass that makes a reduce-scatter of an all-reduce whose result is only
sliced, as those for GPU and TPU have (`ReduceScatterCreator`). Such all-reduces are recognised by
their use and listed as what they are elsewhere.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from acestep_jax.training.optim import path_name

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_ITEM_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # others end in their size: f32, s8
_SHAPE = re.compile(r"\b(pred|bf16|[csuf]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SCANNED = re.compile(r"(^|/)layers/(?!last/)")
_TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program and how often it runs.

    Attributes:
      kind: one of `KINDS`.
      shape: of its larger side on one device, as the program writes it.
      size: bytes of that side.
      devices: how many take part in one group.
      turns: how often it runs in one call.
      name: of the operation it serves, as JAX named it.
    """

    kind: str
    shape: str
    size: int
    devices: int
    turns: int
    name: str

    @property
    def received(self) -> float:
        """Bytes that each device receives in one call of the program."""
        if self.kind == "collective-permute":
            return float(self.turns * self.size)
        passes = 2 if self.kind == "all-reduce" else 1
        return self.turns * passes * self.size * (self.devices - 1) / self.devices


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    result: str  # its type
    opcode: str
    operands: tuple[str, ...]
    rest: str  # operands and attributes, as written


_Program = Mapping[str, list[_Instruction]]


def read(text: str, *, while_turns: int = 1) -> list[Collective]:
    """Lists the collectives of a compiled program.

    Args:
      text: `compiled.as_text()`.
      while_turns: turns to count for loops whose number the compiler does not know.
    """
    program, entry = _parse(text)
    found = []
    for computation, turns in _turns(program, entry, while_turns).items():
        users = _users(program[computation])
        for instruction in program[computation]:
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                found += _describe(program, users, instruction, kind, turns)
    return [collective for collective in found if collective.devices > 1]


def by_kind(collectives: list[Collective]) -> dict[str, float]:
    """Adds up the bytes received: {kind: bytes}."""
    totals: dict[str, float] = {}
    for collective in collectives:
        totals[collective.kind] = totals.get(collective.kind, 0.0) + collective.received
    return totals


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Splits a program into its computations and names the one that is called."""
    program: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if found := _COMPUTATION.match(line):
                current = program.setdefault(found[2], [])
                entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _INSTRUCTION.match(line):
            name, result, opcode, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", _until_closed(rest)))
            current.append(_Instruction(name, result, opcode, operands, rest))
    if not entry:
        raise ValueError("this is no text of a compiled program; pass compiled.as_text().")
    return program, entry


def _until_closed(text: str) -> str:
    """Cuts `a, b), attribute=...` behind the parenthesis that closes the operands."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:i]
    return text


def _turns(program: _Program, entry: str, while_turns: int) -> dict[str, int]:
    """Counts how often each computation runs in one call."""
    counts: dict[str, int] = {}

    def visit(computation: str, turns: int) -> None:
        counts[computation] = counts.get(computation, 0) + turns
        for instruction in program[computation]:
            known = _TURNS.search(instruction.rest)
            loop = int(known[1]) if known else while_turns
            for called in _called(instruction):
                if called in program:
                    visit(called, turns * (loop if instruction.opcode == "while" else 1))

    visit(entry, 1)
    return counts


def _called(instruction: _Instruction) -> Iterator[str]:
    if instruction.opcode.removesuffix("-start") in (*KINDS, "reduce", "sort", "scatter"):
        return  # only a sum or a comparison
    yield from _CALLED.findall(instruction.rest)
    for branches in _BRANCHES.findall(instruction.rest):
        yield from re.findall(r"[\w.\-]+", branches)


def _users(instructions: list[_Instruction]) -> dict[str, list[_Instruction]]:
    users: dict[str, list[_Instruction]] = {}
    for instruction in instructions:
        for operand in dict.fromkeys(instruction.operands):
            users.setdefault(operand, []).append(instruction)
    return users


def _describe(
    program: _Program,
    users: Mapping[str, list[_Instruction]],
    instruction: _Instruction,
    kind: str,
    turns: int,
) -> Iterator[Collective]:
    """Gives one entry for each array that a collective carries."""
    devices = _group_size(instruction.rest)
    named = re.search(r'op_name="([^"]*)"', instruction.rest)
    arrays = list(_SHAPE.finditer(instruction.result))
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        arrays = arrays[len(instruction.operands) : 2 * len(instruction.operands)]  # not the inputs
    for i, array in enumerate(arrays):
        size, found = _bytes(array), kind
        if kind == "reduce-scatter":
            size *= devices
        elif kind == "all-reduce":
            index = i if len(arrays) > 1 else None
            if _only_sliced(program, users, instruction, index, size // devices):
                found = "reduce-scatter"
        yield Collective(found, array[0], size, devices, turns, named[1] if named else "")


def _bytes(shape: re.Match[str]) -> int:
    bits = _ITEM_BITS.get(shape[1]) or int(re.findall(r"\d+", shape[1])[0])
    return math.ceil(bits * math.prod(int(n) for n in shape[2].split(",") if n) / 8)


def _group_size(text: str) -> int:
    """Counts the devices of a group, in each of the ways in which groups are written."""
    if "source_target_pairs" in text:
        return 2
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
        return int(found[2])
    pattern = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}"
    if found := re.search(pattern, text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    raise ValueError(f"its groups are written in a way unknown here: {text[:200]}")


def _only_sliced(
    program: _Program,
    users: Mapping[str, list[_Instruction]],
    instruction: _Instruction,
    index: int | None,
    share: int,
) -> bool:
    """Tells whether all that is used of a result are slices of one device's share."""
    names = [instruction.name]
    if index is not None:
        names = [
            user.name
            for user in users.get(instruction.name, [])
            if user.opcode == "get-tuple-element" and f"index={index}," in f"{user.rest},"
        ]
    uses = [(name, user) for name in names for user in users.get(name, [])]
    return bool(uses) and all(_slices(program, name, user, share) for name, user in uses)


def _slices(program: _Program, operand: str, user: _Instruction, share: int) -> bool:
    """Tells whether `user` takes no more of `operand` than `share` bytes, by a dynamic slice."""
    if user.opcode == "dynamic-slice":
        return operand == user.operands[0] and _bytes(_SHAPE.search(user.result)) <= share
    if user.opcode not in ("fusion", "call", "bitcast", "copy"):
        return False
    called = next((name for name in _CALLED.findall(user.rest) if name in program), None)
    if called is None:
        return False
    inner = _users(program[called])
    for position, name in enumerate(user.operands):
        if name != operand:
            continue
        parameter = next(
            i.name
            for i in program[called]
            if i.opcode == "parameter" and i.rest.startswith(f"{position})")
        )
        uses = inner.get(parameter, [])
        if not uses or not all(_slices(program, parameter, use, share) for use in uses):
            return False
    return True


def fsdp_bytes(params: Any, places: Any, *, trained: bool = True) -> float:
    """Computes what each device must receive so that these parameters are used in one step.

    A parameter in shards is gathered for the forward pass; gathered again for the backward pass
    where layers are scanned, since keeping all of them would be to hold the model whole; and its
    gradient is scattered. One that is whole on every device has its gradient reduced.

    Args:
      params: parameters or their shapes, float32.
      places: `mesh.parameter_shardings` of them.
      trained: False for networks that only run forwards.
    """
    total = 0.0
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    for (path, leaf), place in zip(flat, jax.tree.leaves(places), strict=True):
        size, copies = leaf.size * leaf.dtype.itemsize, place.mesh.shape
        shards = copies["fsdp"] if "fsdp" in jax.tree.leaves(tuple(place.spec)) else 1
        split = leaf.size // math.prod(place.shard_shape(leaf.shape)) // shards  # over tensor
        size /= split
        gathers = 1 + (trained and bool(_SCANNED.search(path_name(path))))
        if shards > 1:
            total += (gathers + trained) * size * (shards - 1) / shards
        others = copies["data"] if shards > 1 else copies["data"] * copies["fsdp"]
        total += trained * 2 * size / shards * (others - 1) / others
    return total
