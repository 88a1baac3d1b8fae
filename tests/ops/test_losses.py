"""Errors per example and masked means."""

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import losses


def test_without_a_mask_padding_counts_and_with_one_it_does_not():
    predicted, target = jax.random.normal(jax.random.key(0), (2, 3, 8, 4))
    mask = jnp.arange(8)[None] < jnp.array([8, 5, 2])[:, None]
    plain = losses.velocity_loss(predicted, target)
    np.testing.assert_allclose(plain, np.mean((predicted - target) ** 2, (1, 2)), rtol=1e-6)
    masked = losses.velocity_loss(predicted, target, mask)
    for i, length in enumerate((8, 5, 2)):
        alone = np.mean((predicted[i, :length] - target[i, :length]) ** 2)
        np.testing.assert_allclose(masked[i], alone, rtol=1e-6)


def test_a_masked_mean_over_the_batch_is_not_the_mean_of_item_means():
    values = jnp.array([[1.0, 1.0, 1.0, 1.0], [5.0, 9.0, 9.0, 9.0]])
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert losses.masked_mean(values, mask) == 9 / 5  # the mean of means would be 3


def test_a_mask_that_counts_nothing_gives_zero():
    assert losses.masked_mean(jnp.ones((2, 3)), jnp.zeros((2, 3))) == 0


def test_errors_of_half_precision_predictions_are_taken_in_float32():
    predicted = jnp.full((1, 1, 4), 256.0, jnp.bfloat16)
    target = jnp.full((1, 1, 4), 255.5, jnp.float32)  # 0.5 is lost if the target is rounded
    assert losses.squared_error(predicted, target) == 0.25
