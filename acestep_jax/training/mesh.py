"""Devices in a mesh of four axes, and the rules that place parameters on it.

`data` copies the model, `fsdp` shards parameters and optimizer state, both share the batch;
`tensor` shards heads and MLP channels; `sequence` shards latent frames. Axes are Auto: XLA finds
the collectives from the placement of parameters and batch. Rules are (path pattern, axes of the
trailing dimensions); leading dimensions (the scan over layers) are never sharded.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from acestep_jax.ops.sharding import BATCH, constrain
from acestep_jax.training import config as config_lib
from acestep_jax.training.optim import path_name
from acestep_jax.training.state import TrainState

__all__ = [
    "BATCH",
    "RULES",
    "batch_sharding",
    "constrain",
    "make_mesh",
    "place_batch",
    "replicated",
]
__all__ += ["leaf_sharding", "own_share", "parameter_shardings", "place", "place_params"]
__all__ += ["sharded_bytes", "state_shardings"]

AXES = ("data", "fsdp", "tensor", "sequence")

Rule = tuple[str, tuple[str | None, ...]]

RULES: tuple[Rule, ...] = (
    # Into heads or MLP channels: columns over tensor. Out of them: rows over tensor.
    (r"(^|/)(q_proj|k_proj|v_proj|gate_proj|up_proj)/kernel$", ("fsdp", "tensor")),
    (r"(^|/)(o_proj|down_proj)/kernel$", ("tensor", "fsdp")),
    (r"(^|/)(q_proj|k_proj|v_proj|gate_proj|up_proj)/bias$", ("tensor",)),
    # Adapters are small: everywhere. (With lora_b over tensor, as its kernel is, XLA of jax 0.10.2
    # computed wrong numbers; tests/train/test_lora.py would show it.)
    (r"(^|/)lora_[ab]$", ()),
    # Vocabulary rows
    (r"(^|/)(embed_tokens|embedding)$", ("tensor", "fsdp")),
    (r"(^|/)lm_head(/kernel)?$", ("fsdp", "tensor")),
    # Any other matrix or convolution: its inputs over fsdp; [k, in, out] keeps k whole
    (r"(^|/)(kernel|weight_v)$", ("fsdp", None)),
    # Vectors and small tables: everywhere
    (r"(^|/)(weight|bias|scale|weight_g|alpha|beta)$", ()),
    (r"(^|/)(scale_shift_table|special_tokens?|null_condition)$", ()),
)
"""Placement of every parameter of the DiT, the encoders, Qwen3, the VAE and the discriminators."""


def make_mesh(
    config: config_lib.Mesh, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Arranges devices as the configuration asks.

    Args:
      config: sizes of the axes; -1 takes what is left.
      devices: all of them by default. A single process may have more than the configuration asks
        for; the last ones stay idle.

    Raises:
      ValueError: if there are too few devices, they cannot be divided, or several processes
        would have to read the same examples.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dataclasses.asdict(config)
    fixed = int(np.prod([size for size in sizes.values() if size > 0]))
    if -1 in sizes.values():
        if len(devices) % fixed:
            raise ValueError(f"{len(devices)} devices cannot be divided by {fixed}, from {config}.")
        sizes = {
            axis: len(devices) // fixed if size == -1 else size for axis, size in sizes.items()
        }
    count = int(np.prod(list(sizes.values())))
    if count > len(devices) or (count < len(devices) and jax.process_count() > 1):
        raise ValueError(
            f"{config} asks for {count} devices and there are {len(devices)}; give one axis -1."
        )
    shares = sizes["data"] * sizes["fsdp"]
    if shares % jax.process_count():
        raise ValueError(
            f"{config} shares a batch {shares} ways among {jax.process_count()} processes, which "
            "read different examples; data x fsdp must be a multiple of the processes, so that "
            "tensor and sequence stay within one."
        )
    shape = tuple(sizes[axis] for axis in AXES)
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count]
    )


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Places an array whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(params: Any, mesh: jax.sharding.Mesh, rules: Sequence[Rule] = RULES) -> Any:
    """Places every parameter by the first rule whose pattern is found in its path.

    A dimension that its axis does not divide stays whole (`sharded_bytes` shows the price).

    Args:
      params: parameters or their shapes.
      mesh: from `make_mesh`.
      rules: (pattern, axes of the trailing dimensions).

    Raises:
      ValueError: if no rule covers a parameter, or a rule has more axes than the parameter; it
        names all such parameters.
    """
    problems: list[str] = []

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        try:
            return leaf_sharding(path_name(path), leaf.shape, mesh, rules)
        except ValueError as problem:
            problems.append(str(problem))
            return replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(place, params)
    if problems:
        shown = "; ".join(problems[:8]) + ("; ..." if len(problems) > 8 else "")
        raise ValueError(f"{len(problems)} parameters cannot be placed: {shown}.")
    return shardings


def leaf_sharding(
    name: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh, rules: Sequence[Rule] = RULES
) -> NamedSharding:
    """Places one parameter by the first rule whose pattern is found in its name.

    Raises:
      ValueError: if there is none, or it has more axes than the parameter.
    """
    for pattern, axes in rules:
        if re.search(pattern, name):
            if len(axes) > len(shape):
                raise ValueError(f"{name} of shape {shape} has no axes for {axes}")
            return NamedSharding(mesh, _fit(shape, axes, mesh))
    raise ValueError(f"{name} is covered by no rule")


def _fit(
    shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: jax.sharding.Mesh
) -> PartitionSpec:
    """Aligns axes with the trailing dimensions, leaving out those that do not divide them."""
    padded = (None,) * (len(shape) - len(axes)) + axes
    return PartitionSpec(
        *(
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for size, axis in zip(shape, padded, strict=True)
        )
    )


def state_shardings(
    state: TrainState, mesh: jax.sharding.Mesh, rules: Sequence[Rule] = RULES
) -> TrainState:
    """Places a training state: averages and optimizer moments next to their parameters.

    An optimizer leaf belongs to the parameter whose path ends its own and whose shape it shares;
    counters and the rest are everywhere.

    Args:
      state: a state or its shapes (`jax.eval_shape(init)`).
    """
    params = parameter_shardings(state.params, mesh, rules)
    whole = replicated(mesh)

    def follow(network: str) -> Any:
        flat, _ = jax.tree_util.tree_flatten_with_path(state.params[network])
        places = jax.tree.leaves(params[network])
        by_path = {path_name(p): (x.shape, s) for (p, x), s in zip(flat, places, strict=True)}

        def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            parts = path_name(path).split("/")
            for start in range(len(parts)):
                shape, sharding = by_path.get("/".join(parts[start:]), (None, whole))
                if shape == leaf.shape:
                    return sharding
            return whole

        return jax.tree_util.tree_map_with_path(place, state.optimizer[network])

    return TrainState(
        step=whole,
        params=params,
        average={network: params[network] for network in state.average},
        optimizer={network: follow(network) for network in state.optimizer},
        key=whole,
        extra=jax.tree.map(lambda _: whole, state.extra),
    )


def place(tree: Any, shardings: Any) -> Any:
    """Puts arrays that every process holds whole, or that are shared already, as shardings say.

    `jax.device_put` does this on devices of this process; here they may be of several.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), replicated(sharding.mesh))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)


def place_params(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """Puts parameters where the rules want them (see `place`)."""
    return place(params, parameter_shardings(params, mesh))


def sharded_bytes(tree: Any, shardings: Any) -> tuple[int, int]:
    """Adds up (bytes in all, bytes on one device) of arrays or shapes under their shardings."""
    total = local = 0
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True):
        total += leaf.size * leaf.dtype.itemsize
        local += int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    return total, local


def batch_sharding(mesh: jax.sharding.Mesh, *axes: str | None) -> NamedSharding:
    """Shares the leading axis of a batch; further axes by name."""
    return NamedSharding(mesh, PartitionSpec(BATCH, *axes))


def own_share(batch: Any) -> Any:
    """Takes this process's examples of a batch that every process holds whole.

    Raises:
      ValueError: if the processes cannot share it evenly.
    """
    count, index = jax.process_count(), jax.process_index()

    def take(leaf: Any) -> Any:
        if leaf.shape[0] % count:
            raise ValueError(f"{leaf.shape[0]} examples cannot be shared by {count} processes.")
        size = leaf.shape[0] // count
        return leaf[index * size : (index + 1) * size]

    return jax.tree.map(take, batch)


def place_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Puts a batch of this process's examples on its devices, as parts of one global batch.

    Raises:
      ValueError: if the devices cannot share the batch evenly.
    """
    shares = mesh.shape["data"] * mesh.shape["fsdp"]

    def place(leaf: Any) -> jax.Array:
        size = leaf.shape[0] * jax.process_count()
        if size % shares:
            raise ValueError(
                f"a batch of {size} cannot be shared by {shares} devices (data x fsdp of the "
                f"mesh); use a multiple of {shares}."
            )
        return jax.make_array_from_process_local_data(batch_sharding(mesh), np.asarray(leaf))

    return jax.tree.map(place, batch)
