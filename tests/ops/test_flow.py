"""The rectified-flow path and its closed forms for Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import flow, gaussian, guidance, solvers, timesteps

MEAN, STD = 0.7, 1.3


def _field(x_t, t):
    return gaussian.velocity(x_t, t, MEAN, STD)


def test_conversions_between_velocity_data_and_noise_return_home(x64):
    data, noise = jax.random.normal(jax.random.key(0), (2, 3, 5, 4), jnp.float64)
    t = jnp.array([0.2, 0.5, 0.9])
    x_t = flow.interpolate(data, noise, t)
    velocity = flow.velocity_target(data, noise)
    np.testing.assert_allclose(flow.data_from_velocity(x_t, velocity, t), data, atol=1e-14)
    np.testing.assert_allclose(flow.noise_from_velocity(x_t, velocity, t), noise, atol=1e-14)
    np.testing.assert_allclose(flow.velocity_from_data(x_t, data, t), velocity, atol=1e-13)


def test_the_path_starts_at_data_and_ends_at_noise():
    data, noise = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    np.testing.assert_array_equal(flow.interpolate(data, noise, 0.0), data)
    np.testing.assert_array_equal(flow.interpolate(data, noise, 1.0), noise)


def test_times_must_match_the_batch():
    with pytest.raises(ValueError, match=r"shape \(2,\) but the state has \(3, 5\)"):
        flow.interpolate(jnp.zeros((3, 5)), jnp.ones((3, 5)), jnp.zeros(2))


def test_score_from_velocity_is_the_gradient_of_the_gaussian_log_density(x64):
    def log_density(x, t):
        return -0.5 * (x - (1 - t) * MEAN) ** 2 / gaussian.noised_variance(t, STD)

    for t in (0.05, 0.4, 0.99):
        for x in (-1.7, 0.1, 2.2):
            x, t = jnp.float64(x), jnp.float64(t)
            score = flow.score_from_velocity(x, _field(x, t), t)
            np.testing.assert_allclose(score, jax.grad(log_density)(x, t), atol=1e-12)


def test_optimal_velocity_is_the_regression_of_noise_minus_data_on_the_state(x64):
    # v* is affine in x; slope and value at the mean follow from the covariance of (x_t, v).
    for t in (0.1, 0.5, 0.9):
        slope = (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2)
        x = jnp.linspace(-2.0, 3.0, 7)
        expected = -MEAN + slope * (x - (1 - t) * MEAN)
        np.testing.assert_allclose(_field(x, jnp.float64(t)), expected, atol=1e-12)


def test_averaged_irreducible_loss_over_uniform_times_is_std_times_half_pi(x64):
    t = (jnp.arange(200_000) + 0.5) / 200_000  # midpoint rule, error below 1e-9
    for std in (0.5, 1.0, 2.0):
        floor = jnp.mean(gaussian.irreducible_loss(t, std))
        np.testing.assert_allclose(floor, std * np.pi / 2, rtol=1e-6)


@pytest.mark.parametrize(("variance", "expected"), [(0.25, 0.763), (1.0, 1.793), (4.0, 3.454)])
def test_averaged_irreducible_loss_over_the_released_times(variance, expected):
    t = timesteps.sample_times(jax.random.key(0), (1_000_000,))
    floor = jnp.mean(gaussian.irreducible_loss(t, variance**0.5))
    # Expected values are quoted to three digits; Monte-Carlo standard error is below 1e-3.
    np.testing.assert_allclose(floor, expected, atol=4e-3)


def test_the_optimal_velocity_attains_the_irreducible_loss():
    data_key, noise_key = jax.random.split(jax.random.key(1))
    data = MEAN + STD * jax.random.normal(data_key, (1_000_000,))
    noise = jax.random.normal(noise_key, data.shape)
    for t in (0.2, 0.6):
        x_t = flow.interpolate(data, noise, t)
        error = jnp.mean((_field(x_t, t) - flow.velocity_target(data, noise)) ** 2)
        np.testing.assert_allclose(error, gaussian.irreducible_loss(t, STD), rtol=6e-3)  # 4 s.e.


def test_average_velocity_satisfies_the_meanflow_identity(x64):
    x, t, r = jnp.float64(0.9), jnp.float64(0.8), jnp.float64(0.3)

    def average(x, t):
        return (x - gaussian.flow_map(x, t, r, MEAN, STD)) / (t - r)

    velocity = _field(x, t)
    mean, slope = jax.jvp(average, (x, t), (velocity, jnp.float64(1.0)))
    np.testing.assert_allclose(mean, velocity - (t - r) * slope, atol=1e-8)


def test_flow_map_solves_the_ode(x64):
    x = jnp.array([-1.0, 0.5, 2.0], jnp.float64)
    for t in jnp.linspace(1.0, 0.0, 2001)[:-1]:  # Euler with 2,000 steps: error of order 1/2000
        x = solvers.euler(_field, x, t, t - 1 / 2000)
    start = jnp.array([-1.0, 0.5, 2.0], jnp.float64)
    exact = gaussian.flow_map(start, jnp.float64(1.0), jnp.float64(0.0), MEAN, STD)
    np.testing.assert_allclose(x, exact, atol=2e-3)


def test_guiding_two_gaussians_gives_the_gaussian_of_the_extrapolated_mean(x64):
    x, t, scale = jnp.linspace(-3.0, 3.0, 9), jnp.float64(0.6), 4.0
    conditional = gaussian.velocity(x, t, 1.0, STD)
    unconditional = gaussian.velocity(x, t, -0.5, STD)
    guided = guidance.classifier_free(conditional, unconditional, scale)
    expected = gaussian.velocity(x, t, -0.5 + scale * 1.5, STD)
    np.testing.assert_allclose(guided, expected, atol=1e-12)
