"""The product of linear layers: whatever order a processor reads the kernel in, one mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops.dense import dense


@pytest.mark.parametrize("rows", [3, 100])  # below and above what turns the kernel around
def test_products_and_all_derivatives_are_those_of_the_plain_product(rows):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        x, dx = (jax.random.normal(k, (2, rows, 5), jnp.float64) for k in keys[:2])
        kernel, dkernel = (jax.random.normal(k, (5, 4), jnp.float64) for k in keys[2:])

        def plain(x, kernel):
            return jnp.einsum("brd,df->brf", x, kernel)

        def derivatives(product):
            def loss(x, kernel):
                return jnp.sum(jnp.sin(product(x, kernel)))

            def steepness(kernel):
                return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

            value, tangent = jax.jvp(loss, (x, kernel), (dx, dkernel))
            return value, tangent, *jax.grad(loss, (0, 1))(x, kernel), jax.grad(steepness)(kernel)

        for got, wanted in zip(derivatives(dense), derivatives(plain), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-10)
