"""The memory of a step, computed before it is compiled: what its traced program keeps alive.

    work = footprint.peak(jax.make_jaxpr(step)(*arguments).jaxpr, shares)

Walked is the program in its order; an array lives from the operation that makes it to the last that
reads it. Operations that a compiler fuses into their readers (arithmetic, casts, broadcasts) make
no array, unless a product or a loop reads them. A loop holds its carry, what it stacks, and the
peak of its body once. What is shared by devices counts by its share: arrays that hold the batch,
and those shaped as a parameter, such as gradients.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

_FUSED = re.compile(
    r"abs|add|and|broadcast_in_dim|ceil|clamp|convert_element_type|copy|cos|div|eq|erf|exp|exp2|"
    r"expand_dims|floor|ge|gt|integer_pow|iota|is_finite|le|log|log1p|logistic|lt|max|min|mul|ne|"
    r"neg|not|optimization_barrier|or|pow|pvary|random_unwrap|random_wrap|real|reduce_precision|"
    r"reshape|rev|round|rsqrt|select_n|sharding_constraint|shift_left|shift_right_logical|sign|sin|"
    r"slice|sqrt|square|squeeze|stop_gradient|sub|tan|tanh|transpose|xor"
)
"""Primitives whose results are computed where they are read."""
_REDUCTION = re.compile(r"reduce_\w+|argmax|argmin")
"""Primitives that make an array and read what is computed there and then."""
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Shares:
    """How many devices share an array, guessed from its shape.

    Attributes:
      batch: size of the batch, over all devices.
      devices: how many share it.
      parameters: {shape: how many devices share a parameter of that shape}.
    """

    def __init__(self, batch: int, devices: int, parameters: Mapping[tuple[int, ...], int]) -> None:
        """Remembers them."""
        self.batch, self.devices, self.parameters = batch, devices, dict(parameters)

    def __call__(self, shape: tuple[int, ...]) -> int:
        if shape in self.parameters:
            return self.parameters[shape]
        held = any(size % self.batch == 0 for size in shape[:2] if size)
        return self.devices if held else 1


def parameter_shares(params: Any, places: Any) -> dict[tuple[int, ...], int]:
    """Reads {shape: devices that share it} off placed parameters; one layer of a stack too."""
    found: dict[tuple[int, ...], int] = {}
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
        local = math.prod(place.shard_shape(leaf.shape))
        found[leaf.shape] = leaf.size // max(local, 1)
    return found


def peak(jaxpr: Any, shares: Shares) -> int:
    """Gives the most bytes that are alive at once on one device, without the program's arguments.

    Args:
      jaxpr: of `jax.make_jaxpr(...).jaxpr`.
      shares: who shares what.
    """
    jaxpr = _flat(jaxpr)
    held = _materialised(jaxpr)
    last = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    given = set(_variables(jaxpr.invars)) | set(_variables(jaxpr.constvars))
    alive = highest = 0
    ends: dict[int, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        if _changes(eqn, last, i):  # in the place of its operand, which a loop may own
            given |= set(_variables(eqn.outvars)) if eqn.invars[0] in given else set()
        for var in _variables(eqn.outvars):
            if var in held and var not in given:
                size = _bytes(var.aval, shares)
                alive += size
                ends[last.get(var, i)] = ends.get(last.get(var, i), 0) + size
        highest = max(highest, alive + _inside(eqn, shares))
        alive -= ends.pop(i, 0)
    return highest


def _changes(eqn: Any, last: Mapping[Any, int], index: int) -> bool:
    """Tells whether an operation only changes a part of an array that nobody reads afterwards."""
    name, operand = eqn.primitive.name, eqn.invars[0] if eqn.invars else None
    updates = name == "scatter" or name == "dynamic_update_slice"
    return updates and not hasattr(operand, "val") and last.get(operand) == index


def _flat(jaxpr: Any) -> Any:
    """Opens a program that only calls another, as `jit` makes it."""
    while len(jaxpr.eqns) == 1 and jaxpr.eqns[0].primitive.name in ("jit", "pjit"):
        inner = next(jaxpr.eqns[0].params[name] for name in _CALLS if name in jaxpr.eqns[0].params)
        jaxpr = getattr(inner, "jaxpr", inner)
    return jaxpr


def _materialised(jaxpr: Any) -> set[Any]:
    """Finds the variables that need a place in memory."""
    heavy = [eqn for eqn in jaxpr.eqns if not _FUSED.fullmatch(eqn.primitive.name)]
    held = {var for eqn in heavy for var in _variables(eqn.outvars)}
    readers = [eqn for eqn in heavy if not _REDUCTION.fullmatch(eqn.primitive.name)]
    held |= {var for eqn in readers for var in _variables(eqn.invars)}
    return held | set(_variables(jaxpr.outvars))


def _inside(eqn: Any, shares: Shares) -> int:
    """Gives the most bytes that an operation holds while it runs, besides its results."""
    inner = [
        peak(getattr(entry, "jaxpr", entry), shares)
        for value in eqn.params.values()
        for entry in (value if isinstance(value, tuple | list) else (value,))
        if hasattr(getattr(entry, "jaxpr", entry), "eqns")
    ]
    return max(inner, default=0)


def _variables(variables: Any) -> Iterator[Any]:
    return (var for var in variables if hasattr(var, "count") or not hasattr(var, "val"))


def _bytes(aval: Any, shares: Shares) -> int:
    shape = getattr(aval, "shape", ())
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(shape)
    return math.prod(shape) * np.dtype(aval.dtype).itemsize // shares(tuple(shape))
