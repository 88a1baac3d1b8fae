"""Fills our parameter trees tensor by tensor, in the released names and layouts.

Written apart from `acestep_jax.weights`, so that the golden tests of the networks do not lean on
the conversion, nor its tests on the networks.
"""

import re
from collections.abc import Callable

import jax
import numpy as np

PREFIXES = {
    "dit": "decoder.",
    "condition_encoder": "encoder.",
    "tokenizer": "tokenizer.",
    "detokenizer": "detokenizer.",
}
"""Released key prefix of each part of the diffusion package."""

Fetch = Callable[[str, tuple[int, ...]], np.ndarray]
"""(released key, released shape) -> tensor."""


def load(shapes: dict, fetch: Fetch, prefix: str = "") -> dict:
    """Builds a tree like `shapes` out of released tensors."""

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [entry.key for entry in path]
        stacked = re.match(r"(.*?)layers/(pairs/sliding|pairs/full|last)/(.*)", "/".join(names))
        plain = re.match(r"(.*?)layers/(.*)", "/".join(names))
        if stacked:
            before, side, after = stacked.groups()
            depth = _depth(shapes, names)
            count = shape.shape[0]
            numbers = {
                "pairs/sliding": range(0, 2 * count, 2),
                "pairs/full": range(1, 2 * count, 2),
                "last": [depth - 1],
            }[side]
        elif plain:
            before, after = plain.groups()
            side, numbers = "all", range(shape.shape[0])
        else:
            return _fetch(fetch, prefix + ".".join(names), shape.shape)
        one = shape.shape if side == "last" else shape.shape[1:]
        keys = [f"{prefix}{before}layers/{n}/{after}".replace("/", ".") for n in numbers]
        tensors = [_fetch(fetch, key, one) for key in keys]
        return tensors[0] if side == "last" else np.stack(tensors)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _depth(shapes: dict, names: list[str]) -> int:
    stack = shapes
    for name in names[: names.index("layers") + 1]:
        stack = stack[name]
    pairs = jax.tree.leaves(stack["pairs"])[0].shape[0] if "pairs" in stack else 0
    return 2 * pairs + ("last" in stack)


def _fetch(fetch: Fetch, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Asks for a tensor in the released layout and lays it out as ours."""
    key = re.sub(r"(decoder\.proj_(?:in|out))\.", r"\1.1.", key)
    if key.endswith("embed_tokens"):
        return fetch(key + ".weight", shape)
    if not key.endswith("kernel"):
        return fetch(key, shape)
    key = key.removesuffix("kernel") + "weight"
    if len(shape) == 2:
        return fetch(key, shape[::-1]).T
    if "proj_in" in key:  # Conv1d [out, in, k] to [k, in, out]
        return fetch(key, shape[::-1]).transpose(2, 1, 0)
    return fetch(key, (shape[1], shape[2], shape[0])).transpose(2, 0, 1)  # [in, out, k]


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Hashes a name to numbers in [-1, 1), the same on every machine: float32 of `shape`."""
    count = int(np.prod(shape))
    seed = sum(name.encode()) * 40503 + 12345
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + seed) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    return (2 * h.astype(np.float64) / 2**32 - 1).astype(np.float32).reshape(shape)


def hashed(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fills a parameter: norm gains near one, everything else within ±0.2."""
    values = noise(key, shape)
    if len(shape) == 1 and key.endswith("weight"):
        return (1 + 0.1 * values).astype(np.float32)
    return (0.2 * values).astype(np.float32)
