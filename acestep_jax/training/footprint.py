"""The memory of a step, computed before it is compiled: what its traced program keeps alive.

    work = footprint.peak(jax.make_jaxpr(step)(*arguments).jaxpr, shares)

Walked is the program in its order; an array lives from the operation that makes it to the last that
reads it. Operations that a compiler fuses into their readers (arithmetic, casts, broadcasts) make
no array, unless a product or a loop reads them. Calls are opened. A loop holds its carry, in the
place of what it began with if nobody else reads that, what it stacks, and the peak of its body
once. What is shared by devices counts by its share: arrays that hold the batch,
and those shaped as a parameter, such as gradients.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

_FUSED = re.compile(
    r"abs|add|add_any|and|broadcast_in_dim|ceil|clamp|convert_element_type|copy|cos|div|eq|erf|exp|exp2|"
    r"expand_dims|floor|ge|gt|integer_pow|iota|is_finite|le|log|log1p|logistic|lt|max|min|mul|ne|"
    r"neg|not|optimization_barrier|or|pow|pvary|random_unwrap|random_wrap|real|reduce_precision|"
    r"reshape|rev|round|rsqrt|select_n|sharding_constraint|shift_left|shift_right_logical|sign|sin|"
    r"slice|sqrt|square|squeeze|stop_gradient|sub|tan|tanh|transpose|xor"
)
"""Primitives whose results are computed where they are read."""
_VIEW = re.compile(r"expand_dims|reshape|squeeze|stop_gradient")
"""Primitives whose results are their operands, seen otherwise."""
_REDUCTION = re.compile(r"reduce_\w+|argmax|argmin")
"""Primitives that make an array and read what is computed there and then."""
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_INLINED = re.compile(r"p?jit|(closed|core)_call|custom_[jv][vj]p_call(_jaxpr)?|checkpoint|remat2?")
"""Primitives that only call a program, which a compiler opens."""
_LOOPS = ("while", "scan")


@dataclasses.dataclass(eq=False)
class Value:
    """An array of a program; the same variable of a program that is called twice is two."""

    aval: Any


class Operation(NamedTuple):
    """One operation of a program whose calls are opened.

    Attributes:
      name: of its primitive.
      reads, makes: its operands and results; literals are left out of the first.
      params: of the primitive.
      carried: for a loop, {what it makes: what it begins with}.
    """

    name: str
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]
    params: Mapping[str, Any]
    carried: Mapping[Value, Value]


class Shares:
    """How many devices share an array, guessed from its shape.

    Attributes:
      batch: size of the batch, over all devices.
      devices: how many share it.
      parameters: {shape: how many devices share a parameter of that shape}.
      layouts: in how many layouts the compiler keeps what a loop stacks for the loop that goes
        back: 2 on GPUs, by XLA's report of its buffers for the 2B model, whose layers are
        rematerialised (BUILD_NOTES.md, section 14).
    """

    def __init__(
        self,
        batch: int,
        devices: int,
        parameters: Mapping[tuple[int, ...], int],
        layouts: int = 1,
    ) -> None:
        """Remembers them."""
        self.batch, self.devices, self.parameters = batch, devices, dict(parameters)
        self.layouts = layouts

    def __call__(self, shape: tuple[int, ...]) -> int:
        if shape in self.parameters:
            return self.parameters[shape]
        # behind at most the axes of two scans
        held = any(size % self.batch == 0 for size in shape[:3] if size)
        return self.devices if held else 1


def parameter_shares(params: Any, places: Any) -> dict[tuple[int, ...], int]:
    """Reads {shape: devices that share it} off placed parameters; one layer of a stack too."""
    found: dict[tuple[int, ...], int] = {}
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
        local = math.prod(place.shard_shape(leaf.shape))
        found[leaf.shape] = leaf.size // max(local, 1)
        if leaf.ndim > 2:  # a layer of a stack
            found.setdefault(leaf.shape[1:], found[leaf.shape])
    return found


def peak(jaxpr: Any, shares: Shares, stacked: int = 0) -> int:
    """Gives the most bytes that are alive at once on one device, without the program's arguments.

    Args:
      jaxpr: of `jax.make_jaxpr(...).jaxpr`.
      shares: who shares what.
      stacked: how many of the last results a loop takes as they are made: it holds their stack.
    """
    given = [Value(var.aval) for var in (*jaxpr.invars, *jaxpr.constvars)]
    operations, results = opened(jaxpr, given)
    results = results[: len(results) - stacked]
    held = _materialised(operations, results)
    last = _last_reads(operations, results, held)
    copied = _read_backwards(operations) if shares.layouts > 1 else set()
    free = set(given)  # has a place that is not this program's to count
    alive = highest = 0
    ends: dict[int, int] = {}
    for i, step in enumerate(operations):
        for value in step.makes:
            size = _bytes(value.aval, shares) * (shares.layouts if value in copied else 1)
            before = _replaced(step, value, last, i)
            if before in free:
                free.add(value)
            elif before is not None and before in held:  # takes over its place
                ends[i] = ends.get(i, 0) - size
                ends[last.get(value, i)] = ends.get(last.get(value, i), 0) + size
            elif value in held:
                alive += size
                ends[last.get(value, i)] = ends.get(last.get(value, i), 0) + size
        highest = max(highest, alive + _inside(step, shares))
        alive -= ends.pop(i, 0)
    return highest


def opened(jaxpr: Any, given: Sequence[Value]) -> tuple[list[Operation], list[Value]]:
    """Opens the programs that a program only calls.

    Args:
      jaxpr: the program.
      given: values of its arguments, and of its constants behind them.

    Returns:
      Its operations in their order, and its results.
    """
    values = dict(zip((*jaxpr.invars, *jaxpr.constvars), given, strict=True))
    operations: list[Operation] = []
    for eqn in jaxpr.eqns:
        inner = _called(eqn)
        if _VIEW.fullmatch(eqn.primitive.name) and not _is_literal(eqn.invars[0]):
            makes = (values[eqn.invars[0]],)
        elif inner is None:
            makes = tuple(Value(var.aval) for var in eqn.outvars)
            reads = tuple(values[var] for var in eqn.invars if not _is_literal(var))
            carried = _carried(eqn, values, makes)
            operations.append(Operation(eqn.primitive.name, reads, makes, eqn.params, carried))
        else:
            constants = [Value(var.aval) for var in inner.constvars]
            arguments = [Value(v.aval) if _is_literal(v) else values[v] for v in eqn.invars]
            more, found = opened(inner, [*arguments[: len(inner.invars)], *constants])
            operations += more
            makes = tuple(found)
        values |= dict(zip(eqn.outvars, makes, strict=True))
    results = [Value(v.aval) if _is_literal(v) else values[v] for v in jaxpr.outvars]
    return operations, results


def _called(eqn: Any) -> Any | None:
    """Gives the program that an operation only calls."""
    if not _INLINED.fullmatch(eqn.primitive.name):
        return None
    inner = next(eqn.params[name] for name in _CALLS if name in eqn.params)
    return getattr(inner, "jaxpr", inner)


def _is_literal(variable: Any) -> bool:
    return hasattr(variable, "val")


def _carried(eqn: Any, values: Mapping[Any, Value], makes: Sequence[Value]) -> dict[Value, Value]:
    """Pairs what a loop ends with and what it began with."""
    if eqn.primitive.name not in _LOOPS:
        return {}
    if eqn.primitive.name == "scan":
        first, count = eqn.params["num_consts"], eqn.params["num_carry"]
    else:
        first = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        count = len(makes)
    begins = eqn.invars[first : first + count]
    pairs = zip(makes, begins, strict=False)
    return {made: values[begin] for made, begin in pairs if not _is_literal(begin)}


def _replaced(step: Operation, made: Value, last: Mapping[Value, int], index: int) -> Value | None:
    """Finds the operand whose place a result takes, as nobody reads the operand afterwards.

    So do the carry of a loop, and an array of which only a part is changed.
    """
    before = step.carried.get(made)
    if step.name in ("dynamic_update_slice", "scatter", "scatter-add") and step.reads:
        before = step.reads[0] if step.reads[0].aval.shape == made.aval.shape else None
    return before if before is not None and last.get(before) == index else None


def _last_reads(
    operations: Sequence[Operation], results: Sequence[Value], held: set[Value]
) -> dict[Value, int]:
    """Finds the operation that reads a value last; through what is computed in its reader, too."""
    last = dict.fromkeys(results, len(operations))
    for i in reversed(range(len(operations))):
        step = operations[i]
        ends = [i if made in held else last.get(made, i) for made in step.makes]
        for value in step.reads:
            last[value] = max([last.get(value, 0), *ends])
    return last


def _read_backwards(operations: Sequence[Operation]) -> set[Value]:
    """Finds the stacks that a loop makes and a loop in the other direction reads, turn by turn."""
    loops = [step for step in operations if step.name == "scan"]
    made = {value for step in loops for value in step.makes[step.params["num_carry"] :]}
    read = set()
    for step in loops:
        first = step.params["num_consts"] + step.params["num_carry"]
        count = len(step.params["jaxpr"].jaxpr.invars) - first
        read |= set(step.reads[len(step.reads) - count :]) if step.params["reverse"] else set()
    return made & read


def _materialised(operations: Sequence[Operation], results: Sequence[Value]) -> set[Value]:
    """Finds the values that need a place in memory."""
    heavy = [step for step in operations if not _FUSED.fullmatch(step.name)]
    held = {value for step in heavy for value in step.makes}
    constant = _constants(operations)
    for step in heavy:
        if step.name in _LOOPS:  # a constant is made anew in every turn
            held |= {value for value in step.reads if value not in constant}
            held |= set(step.carried.values())
        elif not _REDUCTION.fullmatch(step.name):
            held |= set(step.reads)
    return held | set(results)


def _constants(operations: Sequence[Operation]) -> set[Value]:
    """Finds arrays that are one number, or count."""
    return {
        value
        for step in operations
        for value in step.makes
        if step.name == "iota"
        or (step.name == "broadcast_in_dim" and all(not x.aval.shape for x in step.reads))
    }


def _inside(step: Operation, shares: Shares) -> int:
    """Gives the most bytes that an operation holds while it runs, besides its results."""
    stacked = len(step.makes) - step.params["num_carry"] if step.name == "scan" else 0
    inner = [
        peak(getattr(entry, "jaxpr", entry), shares, stacked)
        for value in step.params.values()
        for entry in (value if isinstance(value, tuple | list) else (value,))
        if hasattr(getattr(entry, "jaxpr", entry), "eqns")
    ]
    return max(inner, default=0) + _gathered(step, shares)


def _gathered(step: Operation, shares: Shares) -> int:
    """Gives the bytes of the parameters that a turn of a loop over layers gathers, whole."""
    if step.name != "scan":
        return 0
    layers = step.params["jaxpr"].jaxpr.invars[
        step.params["num_consts"] + step.params["num_carry"] :
    ]
    return sum(
        math.prod(var.aval.shape) * np.dtype(var.aval.dtype).itemsize
        for var in layers
        if shares.parameters.get(tuple(var.aval.shape), 1) > 1
    )


def _bytes(aval: Any, shares: Shares) -> int:
    shape = getattr(aval, "shape", ())
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(shape)
    return math.prod(shape) * np.dtype(aval.dtype).itemsize // shares(tuple(shape))
