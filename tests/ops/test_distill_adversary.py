"""The adversarial terms of distillation: what their optimum is, and which way they push."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import distill, flow, gaussian


def _field(mean, std):
    return lambda x, t: gaussian.velocity(x, t, mean, std)


def test_the_optimal_discriminator_points_along_the_difference_of_scores(x64):
    tau, real, fake = 0.4, (1.0, 1.3), (-0.2, 0.7)
    x = jnp.linspace(-2.0, 2.0, 9)

    def log_density(x, mean, std):
        variance = gaussian.noised_variance(tau, std)
        return -0.5 * (x - (1 - tau) * mean) ** 2 / variance - 0.5 * jnp.log(variance)

    def logit(x):
        return log_density(x, *real) - log_density(x, *fake)

    # The expected loss is an integral over x of p_R (real part) + p_F (fake part): there it rests.
    def total(real, fake):
        return jnp.sum(distill.nonsaturating_discriminator(real, fake))

    to_real, to_fake = jax.grad(total, (0, 1))(logit(x), logit(x))
    slope = jnp.exp(log_density(x, *real)) * to_real + jnp.exp(log_density(x, *fake)) * to_fake
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)
    scores = [flow.score_from_velocity(x, _field(*law)(x, tau), tau) for law in (real, fake)]
    np.testing.assert_allclose(jax.vmap(jax.grad(logit))(x), scores[0] - scores[1], atol=1e-6)


@pytest.mark.parametrize("name", distill.GAN_LOSSES)
def test_discriminators_separate_and_generators_close_in(name):
    discriminator, generator = distill.GAN_LOSSES[name]
    real, fake = jnp.array([[0.2, -0.3]]), jnp.array([[0.4, 0.1]])
    to_real, to_fake = jax.grad(lambda r, f: discriminator(r, f).sum(), (0, 1))(real, fake)
    assert (to_real < 0).all()
    assert (to_fake > 0).all()
    to_fake = jax.grad(lambda f: generator(real, f).sum())(fake)
    assert (to_fake < 0).all()


def test_hinge_stops_caring_beyond_the_margin():
    real, fake = jnp.array([[1.5]]), jnp.array([[-2.0]])
    assert distill.hinge_discriminator(real, fake) == 0.0


def test_relativistic_losses_see_differences_only():
    real, fake = jax.random.normal(jax.random.key(0), (2, 3, 5))
    shifted = distill.relativistic_discriminator(real + 7.0, fake + 7.0)
    plain = distill.relativistic_discriminator(real, fake)
    np.testing.assert_allclose(shifted, plain, rtol=1e-6)
    mirrored = distill.relativistic_generator(fake, real)
    np.testing.assert_allclose(plain, mirrored, rtol=1e-6)


def test_the_contrastive_term_prefers_the_right_condition():
    right, wrong = jnp.array([[2.0]]), jnp.array([[-1.0]])
    assert distill.contrastive(right, wrong) < distill.contrastive(wrong, right)


def test_approximate_r1_of_a_linear_discriminator_is_the_squared_slope(x64):
    slope, sigma = jax.random.normal(jax.random.key(0), (6,), jnp.float64) / 3, 0.05
    noise = jax.random.normal(jax.random.key(1), (4_000_000, 6), jnp.float64)
    penalty = distill.approximate_r1(jnp.zeros(4_000_000), sigma * noise @ slope)
    ratio = jnp.mean(penalty) / sigma**2 / jnp.sum(slope**2)
    # The squared normal has relative standard deviation sqrt(2): 7e-4 over 4 million draws; the
    # slope is about 1/2, so this is the 2e-4 of the penalty per unit sigma^2.
    np.testing.assert_allclose(ratio, 1.0, atol=1e-3)
