"""Hints about where arrays live, for code that must also run on one device.

Mesh axes: `data` and `fsdp` share the batch, `tensor` the heads and MLP channels, `sequence` the
latent frames.
"""

import math

import jax
from jax.sharding import PartitionSpec

BATCH = ("data", "fsdp")
"""The mesh axes that share the batch."""


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Asks that `x` be laid out with one mesh axis (or None) for each of its leading dimensions.

    Without an ambient mesh (`with jax.set_mesh(mesh):`), or where the axis does not divide the
    dimension, nothing is asked: the values are the same in any layout.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = []
    for size, axis in zip(x.shape, axes, strict=False):
        names = tuple(
            n for n in ((axis,) if isinstance(axis, str) else axis or ()) if n in mesh.shape
        )
        devices = 1
        for name in names:
            devices *= mesh.shape[name]
        spec.append(names if names and size % devices == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def share_batch(x: jax.Array) -> jax.Array:
    """Asks that the leading axis be shared like the batch; the other axes are the compiler's.

    Without it the compiler may prefer to leave a layer's activations in shards of its channels, as
    its kernel is: every device then computes the whole batch, and partial sums of activations
    travel instead of parameters.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.ndim < 2:
        return x
    names = tuple(name for name in BATCH if name in mesh.shape)
    if x.shape[0] % math.prod(mesh.shape[name] for name in names):
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(names, *free))
