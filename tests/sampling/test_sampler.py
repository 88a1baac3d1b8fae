"""The compiled sampler: an item's song is its own, whatever travels beside it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import guidance, solvers, timesteps
from acestep_jax.sampling import flow, sampler
from acestep_jax.sampling.steering import Steering
from tests import tiny

FRAMES, CHANNELS = 11, tiny.CONFIG.audio_acoustic_hidden_dim


def _sample(seeds, rows, *, frames=FRAMES, mask=None, stochastic=False, step=solvers.euler, **rest):
    """Samples items `rows` of one fixed set of conditions with the given seeds."""
    tokens, context = tiny.conditions(batch=3, frames=FRAMES)
    keys = flow.item_keys(jnp.asarray(seeds))
    padding = ((0, 0), (0, frames - FRAMES), (0, 0))
    return sampler.make_sampler(tiny.networks().dit, step=step)(
        tiny.params()["dit"],
        flow.initial_noise(keys, frames, CHANNELS),
        tokens[jnp.asarray(rows)],
        None,
        jnp.pad(context[jnp.asarray(rows)], padding, constant_values=3.0),
        mask,
        timesteps.time_grid(3, 3.0),
        flow.step_keys(keys, 3) if stochastic else None,
        null=tiny.params()["null_condition"] if "steering" in rest else None,
        **rest,
    )


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_item_sounds_the_same_at_any_batch_size_and_position(stochastic):
    step = solvers.renoise if stochastic else solvers.euler
    together = _sample([4, 5, 6], [0, 1, 2], step=step, stochastic=stochastic)
    alone = _sample([6], [2], step=step, stochastic=stochastic)
    np.testing.assert_allclose(together[2], alone[0], atol=2e-5)  # measured 2e-6: float32 sums


def test_padding_to_a_bucket_does_not_change_an_item():
    mask = jnp.arange(16)[None] < FRAMES
    padded = _sample([4], [0], frames=16, mask=mask)
    np.testing.assert_allclose(padded[:, :FRAMES], _sample([4], [0]), atol=2e-5)


def test_guidance_equals_two_full_evaluations_combined():
    """The compiled sampler evaluates the null condition at one row; here it has all of them."""
    tokens, context = tiny.conditions(batch=3, frames=FRAMES)
    dit, variables = tiny.networks().dit, {"params": tiny.params()["dit"]}
    null = jnp.broadcast_to(tiny.params()["null_condition"], tokens.shape)

    @jax.jit
    def velocity(x, t):
        times = jnp.full(3, t)
        with_condition = dit.apply(variables, x, times, context, tokens)
        without = dit.apply(variables, x, times, context, null)
        return guidance.classifier_free(with_condition, without, 4.0)

    x = flow.initial_noise(flow.item_keys(jnp.asarray([4, 5, 6])), FRAMES, CHANNELS)
    times = timesteps.time_grid(3, 3.0)
    for t, t_next in itertools.pairwise(times):
        x = x - (t - t_next) * velocity(x, t)
    guided = _sample([4, 5, 6], [0, 1, 2], steering=Steering(rule="cfg", scale=4.0))
    np.testing.assert_allclose(guided, x, atol=5e-5)
    plain = _sample([4, 5, 6], [0, 1, 2])
    assert np.abs(np.asarray(guided - plain)).max() > 0.05  # and guidance does something


def test_guidance_without_a_null_embedding_is_refused():
    tokens, context = tiny.conditions(batch=1, frames=FRAMES)
    sample = sampler.make_sampler(tiny.networks().dit)
    noise, times = jnp.zeros((1, FRAMES, CHANNELS)), timesteps.time_grid(2, 1.0)
    steering = Steering(rule="cfg", scale=2.0)
    with pytest.raises(ValueError, match="needs the null embedding"):
        sample(tiny.params()["dit"], noise, tokens, None, context, None, times, steering=steering)
