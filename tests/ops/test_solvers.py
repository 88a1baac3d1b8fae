"""Solver steps against the closed forms of affine Gaussian flows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import flow, gaussian, solvers, timesteps


def _integrate(velocity, noise, times):
    x = noise
    for t, t_next in itertools.pairwise(times):
        x = solvers.euler(velocity, x, t, t_next)
    return x


@pytest.mark.parametrize(
    ("variance", "num_steps", "factors"),
    [
        (1.0, 8, (0.851, 0.830, 0.795)),
        (1.0, 50, (0.975, 0.971, 0.964)),
        (1.0, 4, (0.720, 0.681, 0.615)),
        (0.25, 8, (0.830, 0.757, 0.680)),
    ],
)
def test_euler_shrinks_a_gaussian_by_the_known_factor_and_keeps_its_mean(
    x64, variance, num_steps, factors
):
    std, mean = variance**0.5, 0.7
    for shift, factor in zip((1.0, 2.0, 3.0), factors, strict=True):
        # The flow is affine, so two starting points determine mean and scale exactly.
        ends = _integrate(
            lambda x, t: gaussian.velocity(x, t, mean, std),
            jnp.array([-1.0, 1.0]),
            timesteps.time_grid(num_steps, shift),
        )
        np.testing.assert_allclose(jnp.mean(ends), mean, atol=1e-12)
        np.testing.assert_allclose((ends[1] - ends[0]) / 2 / std, factor, atol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
def test_with_the_matching_data_map_an_euler_state_has_std_t_plus_one_minus_t_times_sigma(
    x64, shift
):
    # A student whose one-step data estimate keeps the data law scales its state by std / s(t),
    # s the state's own std. Then s(t') = (t'/t) s(t) + (1 - t'/t) std: a straight line in t.
    std = 1.5
    times = timesteps.time_grid(8, shift)
    state = jnp.float64(1.0)  # follows one standard deviation: the map is linear

    def velocity(x, t):
        own_std = t + (1 - t) * std
        return flow.velocity_from_data(x, x * std / own_std, t)

    for t, t_next in itertools.pairwise(times):
        state = solvers.euler(velocity, state, t, t_next)
        np.testing.assert_allclose(state, t_next + (1 - t_next) * std, atol=1e-12)


def test_renoising_keeps_the_marginal_of_the_noised_data():
    std, t, t_next = 1.5, 0.8, 0.5
    start_key, step_key = jax.random.split(jax.random.key(0))
    variance = gaussian.noised_variance(t, std)
    x_t = jnp.sqrt(variance) * jax.random.normal(start_key, (400_000,))

    def velocity(x, t):  # a data estimate with the full variance of the data
        return flow.velocity_from_data(x, x * std / jnp.sqrt(variance), t)

    x_next = solvers.renoise(velocity, x_t, t, t_next, step_key)
    expected = gaussian.noised_variance(t_next, std)
    np.testing.assert_allclose(jnp.var(x_next), expected, rtol=1e-2)  # 4 standard errors


def test_the_last_renoising_step_returns_the_data_estimate():
    x_t = jax.random.normal(jax.random.key(0), (2, 3, 4))
    end = solvers.renoise(lambda x, t: 2 * x, x_t, 0.25, 0.0, jax.random.key(1))
    np.testing.assert_array_equal(end, 0.5 * x_t)


def test_renoising_without_a_key_is_refused():
    with pytest.raises(ValueError, match="pass a key"):
        solvers.renoise(lambda x, t: x, jnp.ones((2, 3)), 0.5, 0.25)


def test_items_may_stand_at_different_times():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    t, t_next = jnp.array([1.0, 0.5]), jnp.array([0.7, 0.0])
    together = solvers.euler(lambda x, t: x**2, x, t, t_next)
    for i in range(2):
        alone = solvers.euler(lambda x, t: x**2, x[i], t[i], t_next[i])
        np.testing.assert_allclose(together[i], alone, atol=1e-7)


def test_an_item_with_its_own_key_draws_the_same_noise_in_any_batch():
    x = jnp.zeros((3, 5, 4))
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = solvers.fresh_noise(keys, x)
    np.testing.assert_array_equal(together[2:], solvers.fresh_noise(keys[2:], x[2:]))
    np.testing.assert_array_equal(solvers.fresh_noise(together, x), together)
