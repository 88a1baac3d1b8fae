"""The product of every linear layer."""

import math

import jax
import jax.numpy as jnp

from acestep_jax.ops import backends
from acestep_jax.typing import Array

_FEW_ROWS = 64
"""Below, reading the kernel is the cost, and it must not be read twice."""


@jax.custom_jvp
def dense(x: Array, kernel: Array) -> Array:
    """Computes x W for x [..., in] and a kernel W [in, out].

    Its derivative is that of the product, written so that a processor computes it well: the kernel
    is transposed first, once and for itself. Its gradient is then born as [out, in] and a kernel is
    turned around; without the barrier XLA turns the activations around, which are larger: a quarter
    of the time of a training step of the nano DiT (jax 0.10.2). Elsewhere matrix products read
    either order.
    """
    return jnp.einsum("...D,DF->...F", x, kernel)


@dense.defjvp
def _dense_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    return dense(x, kernel), _turned(dx, kernel) + _turned(x, dkernel)


def _turned(x: Array, kernel: Array) -> Array:
    if backends.current() != "cpu" or math.prod(x.shape[:-1]) < _FEW_ROWS:
        return dense(x, kernel)
    return jnp.einsum("...D,FD->...F", x, jax.lax.optimization_barrier(kernel.T))
