"""Snake and its gradient, against the sine they replace."""

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops.snake import snake


def test_snake_adds_a_squared_sine_and_has_its_gradient():
    x = jnp.linspace(-30, 30, 301)[None, :, None] * jnp.ones((1, 1, 2))
    frequency, gain = jnp.array([[[0.7, 2.5]]]), jnp.array([[[1.3, 0.4]]])

    def textbook(x, frequency, gain):
        return x + gain * jnp.sin(frequency * x) ** 2

    np.testing.assert_allclose(
        snake(x, frequency, gain), textbook(x, frequency, gain), atol=1e-5
    )  # measured 4e-6: float32 at arguments up to 75
    weigh = jnp.cos(jnp.arange(602.0).reshape(x.shape))  # any cotangent
    for i in range(3):
        ours, expected = (
            jax.grad(lambda *a, f=f: jnp.sum(weigh * f(*a)), argnums=i)(x, frequency, gain)
            for f in (snake, textbook)
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)  # sums of 301 terms of 30
