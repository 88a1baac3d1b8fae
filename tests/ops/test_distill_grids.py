"""What a student is trained on: states of its own sampler, on grids of every shift, and their laws.

All is linear and Gaussian, so a student is a number a noise level.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import distill, flow, gaussian, solvers, timesteps


def _field(mean, std):
    return lambda x, t: gaussian.velocity(x, t, mean, std)


def _final_std(student_std, step, shift, sigma=1.0, posterior=False):
    """Runs eight steps of a linear student on a vector whose entries weigh independent noises.

    `student_std(t)` is the spread of the states it was trained on; with `posterior` it is instead
    the teacher's own data estimate.
    """
    times = timesteps.time_grid(8, shift)
    state = jnp.zeros(9).at[0].set(1.0)  # the first noise; each re-noising may add another

    def velocity(x, t):
        if posterior:
            return gaussian.velocity(x, t, 0.0, sigma)
        return flow.velocity_from_data(x, x * sigma / student_std(t), t)

    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        state = step(velocity, state, t, t_next, jnp.eye(9)[i + 1])
    return jnp.linalg.norm(state) / sigma


def _forward_std(t):
    return jnp.sqrt(gaussian.noised_variance(t, 1.0))


@pytest.mark.parametrize(
    ("student_std", "step", "posterior", "ratios"),
    [
        (_forward_std, solvers.euler, False, (1.816, 1.799, 1.764)),
        (_forward_std, solvers.renoise, False, (1.0, 1.0, 1.0)),
        (lambda t: t + (1 - t) * 1.0, solvers.euler, False, (1.0, 1.0, 1.0)),
        (None, solvers.euler, True, (0.851, 0.830, 0.795)),
        (None, solvers.renoise, True, (0.620, 0.602, 0.585)),
    ],
    ids=["forward_ode", "forward_renoise", "backward_ode", "teacher_ode", "teacher_renoise"],
)
def test_a_student_keeps_the_spread_only_on_the_states_it_was_trained_on(
    x64, student_std, step, posterior, ratios
):
    for shift, ratio in zip((1.0, 2.0, 3.0), ratios, strict=True):
        final = _final_std(student_std, step, shift, posterior=posterior)
        np.testing.assert_allclose(final, ratio, atol=1e-3)


def _teacher_scale(t, sigma):
    return (1 - t) * sigma**2 / gaussian.noised_variance(t, sigma)


@functools.partial(jax.jit, static_argnames="sigma")
def _distilled_scale(state_std, start, sigma):
    """Descends on x_g = scale * x_k until the fake score of N(0, (scale state_std)^2) agrees.

    All is linear and centred, so one standard deviation (x_k = state_std, noise 0) gives the exact
    expectation of gradient times x_k, up to a positive factor.
    """
    taus = jnp.linspace(0.05, 0.95, 7)

    def update(_, scale):
        generated = jnp.full((7, 1, 1), scale * state_std)
        fake = _field(0.0, scale * state_std)
        teacher = _field(0.0, sigma)
        directions = distill.coupled_directions(
            generated, (jnp.zeros((7, 1, 1)),), (taus,), fake, teacher, teacher, 1.0
        )
        return scale - 0.5 * jnp.mean(directions.matching) / state_std

    return jax.lax.fori_loop(0, 500, update, start)


def _train_table(shifts, sigma):
    """Distils a student with one number a noise level, starting from the teacher's data map."""
    table = {}
    for shift in shifts:
        state_std = jnp.float64(1.0)
        for t, t_next in itertools.pairwise(timesteps.time_grid(8, shift)):
            # At t = 1 the teacher's map is 0, where symmetry hides the gradient: start beside it.
            start = jnp.maximum(_teacher_scale(t, sigma), 0.1)
            scale = _distilled_scale(state_std, start, sigma)
            table[round(float(t), 9)] = scale

            def velocity(x, t, scale=scale):
                return flow.velocity_from_data(x, scale * x, t)

            state_std = solvers.euler(velocity, state_std, t, t_next)
    return table


@pytest.mark.parametrize(
    ("trained", "ratios"),
    [
        ((1.0,), (1.0, 0.938, 0.897)),
        ((3.0,), (1.072, 0.938, 1.0)),
        ((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)),
    ],
    ids=["one", "three", "joint"],
)
def test_a_student_of_one_grid_fails_on_others_and_a_joint_one_does_not(x64, trained, ratios):
    sigma = 1.5
    table = _train_table(trained, sigma)

    def velocity(x, t):  # levels never trained stay what the teacher made them
        scale = table.get(round(float(t), 9), _teacher_scale(t, sigma))
        return flow.velocity_from_data(x, scale * x, t)

    for shift, ratio in zip((1.0, 2.0, 3.0), ratios, strict=True):
        x = jnp.float64(1.0)
        for t, t_next in itertools.pairwise(timesteps.time_grid(8, shift)):
            x = solvers.euler(velocity, x, t, t_next)
        np.testing.assert_allclose(x / sigma, ratio, atol=1e-3)


# --- laws ---


def test_joint_shifts_are_one_two_three_in_equal_parts():
    shifts = np.asarray(distill.draw_shift(jax.random.key(0), (30_000,)))
    values, counts = np.unique(shifts, return_counts=True)
    np.testing.assert_array_equal(values, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.011)  # 4 standard errors


def test_fixed_and_continuous_shifts():
    assert (distill.draw_shift(jax.random.key(0), (8,), "3") == 3.0).all()
    continuous = distill.draw_shift(jax.random.key(0), (10_000,), "continuous")
    assert continuous.min() >= 1
    assert continuous.max() <= 5
    assert 2.9 < continuous.mean() < 3.1
    with pytest.raises(ValueError, match="unknown shift law '4'"):
        distill.draw_shift(jax.random.key(0), (8,), "4")


def test_step_laws_read_as_written():
    assert distill.step_counts("8") == (8,)
    assert distill.step_counts("4,8") == (4, 8)
    assert distill.step_counts("4-8") == (4, 5, 6, 7, 8)
    for wrong in ("", "8-4", "a", "0"):
        with pytest.raises(ValueError, match="step law"):
            distill.step_counts(wrong)


def test_the_step_is_uniform_over_the_grid_it_belongs_to():
    keys = jax.random.split(jax.random.key(0), 20_000)
    num_steps, step = jax.vmap(lambda key: distill.draw_step(key, "4,8"))(keys)
    for count in (4, 8):
        steps = np.asarray(step)[np.asarray(num_steps) == count]
        frequencies = np.bincount(steps, minlength=count) / len(steps)
        np.testing.assert_allclose(frequencies, 1 / count, atol=0.02)


def test_levels_stay_below_the_students_step_and_above_the_floor():
    high = jnp.array([0.125, 0.5, 1.0, 0.01])
    levels = jax.vmap(lambda key: distill.draw_level(key, (4,), 0.02, high))(
        jax.random.split(jax.random.key(0), 1000)
    )
    assert (levels >= 0.02).all()
    assert (levels <= jnp.maximum(0.02, high)[None]).all()
    np.testing.assert_allclose(levels.mean(0), [0.0725, 0.26, 0.51, 0.02], atol=0.03)


def test_guidance_looks_below_the_students_step_and_matching_everywhere():
    t_k = jnp.tile(jnp.array([0.125, 0.5, 1.0]), 5000)
    matching, guiding = distill.draw_term_levels(jax.random.key(0), t_k)
    assert (guiding <= jnp.minimum(t_k, distill.MAX_LEVEL)).all()
    assert (guiding >= distill.MIN_LEVEL).all()
    for t in (0.125, 0.5, 1.0):
        seen, top = guiding[t_k == t], min(t, distill.MAX_LEVEL)
        middle = 0.5 * (distill.MIN_LEVEL + top)
        np.testing.assert_allclose(seen.mean(), middle, atol=4 * top / (12 * 5000) ** 0.5)
        seen = matching[t_k == t]  # whatever the step: 5,000 uniform draws, 4 standard errors
        np.testing.assert_allclose(seen.mean(), 0.5, atol=4 / (12 * 5000) ** 0.5)
    assert abs(np.corrcoef(matching, guiding)[0, 1]) < 0.04  # keys of their own: 5 / sqrt(15,000)


def test_log_snr_levels_are_uniform_in_log_snr():
    t = np.asarray(distill.draw_log_snr_level(jax.random.key(0), (100_000,)))
    log_snr = 2 * np.log((1 - t) / t)
    assert log_snr.min() > -6.001
    assert log_snr.max() < 2.001
    assert abs(log_snr.mean() + 2.0) < 0.03
