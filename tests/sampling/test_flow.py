"""Laws of the integrator and of the randomness it is fed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import solvers, timesteps
from acestep_jax.sampling import flow

SHAPE = (3, 10, 4)


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 8, 50])
def test_euler_is_exact_when_the_path_is_straight(num_steps, shift):
    data, noise = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    sample = flow.integrate(lambda x, t: noise - data, noise, timesteps.time_grid(num_steps, shift))
    np.testing.assert_allclose(sample, data, atol=1e-5)  # float32 over at most 50 additions


def test_the_scan_equals_a_python_loop_and_the_trajectory_ends_in_the_sample():
    noise = jax.random.normal(jax.random.key(1), SHAPE)
    times = timesteps.time_grid(5, 2.0)

    def velocity(x, t):
        return jnp.sin(3 * x) + t

    x = noise
    for t, t_next in itertools.pairwise(times):
        x = x - (t - t_next) * velocity(x, t)
    states = flow.trajectory(velocity, noise, times)
    np.testing.assert_allclose(flow.integrate(velocity, noise, times), x, atol=1e-6)
    np.testing.assert_array_equal(states[-1], flow.integrate(velocity, noise, times))
    assert states.shape == (5, *SHAPE)


def test_every_item_may_have_its_own_grid():
    noise = jax.random.normal(jax.random.key(1), SHAPE)
    shifts = jnp.asarray([1.0, 2.0, 3.0])

    def velocity(x, t):
        return x * jnp.reshape(t, (-1, 1, 1))

    together = flow.integrate(velocity, noise, timesteps.time_grid(6, shifts))
    for i, shift in enumerate([1.0, 2.0, 3.0]):
        alone = flow.integrate(velocity, noise[i : i + 1], timesteps.time_grid(6, shift))
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-6)


def test_an_item_draws_the_same_noise_at_any_batch_size_position_and_length():
    alone = flow.initial_noise(flow.item_keys([7]), 40, 4)
    among = flow.initial_noise(flow.item_keys([3, 9, 7]), 40, 4)
    longer = flow.initial_noise(flow.item_keys([7]), 64, 4)
    np.testing.assert_array_equal(alone[0], among[2])
    np.testing.assert_array_equal(alone[0], longer[0, :40])
    assert np.abs(np.asarray(among[0] - among[1])).max() > 0.1


def test_a_stochastic_sample_depends_on_the_items_key_alone():
    def sample(seeds):
        keys = flow.item_keys(seeds)
        return flow.integrate(
            lambda x, t: 0.3 * x,
            flow.initial_noise(keys, 10, 4),
            timesteps.time_grid(4, 3.0),
            solvers.renoise,
            flow.step_keys(keys, 4),
        )

    np.testing.assert_array_equal(sample([5])[0], sample([1, 5])[1])


def test_step_noise_differs_from_step_to_step_and_from_the_initial_noise():
    keys = flow.item_keys([5])
    draws = [flow.initial_noise(keys, 10, 4)]
    draws += [solvers.fresh_noise(k, draws[0]) for k in flow.step_keys(keys, 3)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert np.abs(np.asarray(a - b)).max() > 0.1


def test_noise_given_in_place_of_keys_is_used_as_it_is():
    noise, fresh = jax.random.normal(jax.random.key(2), (2, *SHAPE))
    out = solvers.renoise(lambda x, t: 0.0 * x, noise, jnp.float32(0.5), jnp.float32(0.25), fresh)
    np.testing.assert_allclose(out, 0.25 * fresh + 0.75 * noise, atol=1e-6)
