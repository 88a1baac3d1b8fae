"""Average velocities against the closed forms of a Gaussian flow, and through the DiT."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import flow, gaussian, meanflow, timesteps
from acestep_jax.sampling import flow as sampling

MEAN, STD = 0.7, 1.5
AVERAGE = functools.partial(gaussian.average_velocity, mean=MEAN, std=STD)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def times(*values):
    return jnp.array(values)


def test_the_average_velocity_of_a_gaussian_satisfies_the_identity(x64):
    """Training reference A4: u = v - (t - r)(v u_x + u_t), to 1e-8."""
    x_t = jax.random.normal(jax.random.key(0), (4, 5, 2))
    t, r = times(0.9, 0.6, 1.0, 0.3), times(0.1, 0.5, 0.0, 0.25)
    velocity = gaussian.velocity(x_t, t, MEAN, STD)
    average, target = meanflow.predict_and_target(AVERAGE, x_t, t, r, velocity)
    np.testing.assert_allclose(target, average, atol=1e-8)
    np.testing.assert_allclose(average, AVERAGE(x_t, t, r), atol=1e-15)


def test_over_a_vanishing_interval_it_is_the_velocity(x64):
    x_t, t = jax.random.normal(jax.random.key(0), (2, 5, 2)), times(0.8, 0.3)
    np.testing.assert_allclose(
        AVERAGE(x_t, t, t - 1e-6), gaussian.velocity(x_t, t, MEAN, STD), atol=1e-5
    )


@pytest.mark.parametrize("num_steps", [1, 3])
def test_its_steps_are_exact_however_few(x64, num_steps):
    noise = jax.random.normal(jax.random.key(0), (3, 5, 2))
    grid = timesteps.time_grid(num_steps)
    with jax.numpy_rank_promotion("raise"):
        data = sampling.integrate(AVERAGE, noise, grid, meanflow.step)
    exact = gaussian.flow_map(noise, 1.0, 0.0, MEAN, STD)
    np.testing.assert_allclose(data, exact, atol=1e-6)  # the grid is float32


def test_where_both_times_are_equal_the_target_is_the_velocity():
    x_t, velocity = jax.random.normal(jax.random.key(0), (2, 3, 5, 2))
    t = times(0.2, 0.5, 0.9)
    wild = lambda x, t, r: jnp.sin(40 * x * flow.broadcast_time(t, x))  # noqa: E731
    _, target = meanflow.predict_and_target(wild, x_t, t, t, velocity)
    np.testing.assert_array_equal(target, velocity)


def test_the_target_is_a_constant():
    x_t, velocity = jax.random.normal(jax.random.key(0), (2, 2, 5, 2))
    t, r = times(0.9, 0.6), times(0.1, 0.5)

    def loss(a):
        average = lambda x, t, r: a * x * flow.broadcast_time(t - r, x)  # noqa: E731
        predicted, target = meanflow.predict_and_target(average, x_t, t, r, velocity)
        return jnp.sum(predicted), jnp.sum(target)

    through, constant = jax.jacobian(loss)(2.0)
    gap = flow.broadcast_time(t - r, x_t)
    np.testing.assert_allclose(through, jnp.sum(x_t * gap), rtol=1e-5)
    assert constant == 0


def test_pairs_are_ordered_and_equal_as_often_as_asked():
    t, r = meanflow.sample_time_pairs(jax.random.key(0), (100_000,), 0.3)
    assert bool(jnp.all(r <= t))
    assert abs(float(jnp.mean(r == t)) - 0.3) < 0.006  # four standard errors
    # max and min of two draws together are the two draws: mean of sigmoid(N(-0.4, 1)) is 0.418
    apart = r < t
    both = (jnp.sum(t * apart) + jnp.sum(r * apart)) / (2 * jnp.sum(apart))
    assert abs(float(both) - 0.418) < 0.003


def test_a_share_of_pairs_is_a_probability():
    with pytest.raises(ValueError, match=r"equal_share=1.5 must lie in \[0, 1\]"):
        meanflow.sample_time_pairs(jax.random.key(0), (2,), 1.5)


def test_weights_make_examples_count_alike_at_power_one():
    error = jnp.array([0.1, 10.0])
    np.testing.assert_allclose(meanflow.adaptive_weight(error, 1.0) * error, 1.0, rtol=1e-2)
    np.testing.assert_allclose(meanflow.adaptive_weight(error, 0.0), 1.0)
    half = jax.grad(lambda e: jnp.sum(meanflow.adaptive_weight(e, 0.5) * e))(error)
    np.testing.assert_allclose(half, (error + 1e-3) ** -0.5, rtol=1e-6)
