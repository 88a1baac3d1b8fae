"""Distribution matching against closed forms: every field here is that of a known Gaussian."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import distill, flow, gaussian, guidance, losses, solvers, timesteps


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def _field(mean, std):
    return lambda x, t: gaussian.velocity(x, t, mean, std)


# --- the direction ---


def test_the_direction_is_the_difference_of_data_estimates(x64):
    x, v_teacher, v_fake = jax.random.normal(jax.random.key(0), (3, 4, 6, 2), jnp.float64)
    level = jnp.array([0.02, 0.3, 0.7, 0.98])
    data_fake = flow.data_from_velocity(x, v_fake, level)
    data_teacher = flow.data_from_velocity(x, v_teacher, level)
    direction = distill.matching_direction(v_teacher, v_fake, level)
    np.testing.assert_allclose(direction, data_fake - data_teacher, atol=1e-12)


def test_matching_and_guidance_terms_add_up_to_matching_the_guided_teacher(x64):
    v_c, v_u, v_f = jax.random.normal(jax.random.key(0), (3, 4, 6, 2), jnp.float64)
    level, scale = jnp.array([0.1, 0.3, 0.7, 0.9]), 4.5
    both = distill.matching_direction(v_c, v_f, level) + distill.guidance_direction(
        v_c, v_u, level, scale
    )
    guided = guidance.classifier_free(v_c, v_u, scale)
    expected = distill.matching_direction(guided, v_f, level)
    np.testing.assert_allclose(both, expected, atol=1e-12)


def test_coupled_is_decoupled_when_both_terms_see_the_same_noise(x64):
    x, noise = jax.random.normal(jax.random.key(0), (2, 4, 6, 2), jnp.float64)
    level = jnp.array([0.1, 0.3, 0.7, 0.9])
    fields = {
        "fake": _field(0.1, 0.9),
        "conditional": _field(1.0, 1.2),
        "unconditional": _field(0.0, 1.5),
    }
    coupled = distill.coupled_directions(x, noise, level, scale=3.0, **fields)
    decoupled = distill.decoupled_directions(x, (noise, noise), (level, level), scale=3.0, **fields)
    for one, other in zip(coupled, decoupled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


@pytest.mark.parametrize("tau", [0.3, 0.8])
def test_the_weighted_direction_is_the_gradient_of_the_kl_divergence(x64, tau):
    # Student N(b, s^2), teacher N(mu, sigma^2); both noised to tau. 4 million draws.
    b, s, mu, sigma = 0.4, 0.8, 1.1, 1.3

    def kl(b, s):
        var_f, var_r = gaussian.noised_variance(tau, s), gaussian.noised_variance(tau, sigma)
        shift = (1 - tau) * (b - mu)
        return 0.5 * (jnp.log(var_r / var_f) + (var_f + shift**2) / var_r - 1)

    step = 1e-5
    expected_b = (kl(b + step, s) - kl(b - step, s)) / (2 * step)
    expected_s = (kl(b, s + step) - kl(b, s - step)) / (2 * step)

    z, noise = jax.random.normal(jax.random.key(2), (2, 4_000_000))
    x_tau = flow.interpolate(b + s * z, noise, tau)
    direction = distill.matching_direction(
        _field(mu, sigma)(x_tau, tau), _field(b, s)(x_tau, tau), tau
    )
    weighted = (1 - tau) ** 2 / tau**2 * direction
    np.testing.assert_allclose(jnp.mean(weighted), expected_b, atol=3e-3)
    np.testing.assert_allclose(jnp.mean(weighted * z), expected_s, atol=3e-3)


def test_descent_moves_the_student_towards_the_teacher(x64):
    mu_teacher, mu_student, std = 2.0, -1.0, 1.3
    x = jnp.linspace(-3.0, 3.0, 7)
    for tau in (0.05, 0.5, 0.95):
        direction = distill.matching_direction(
            _field(mu_teacher, std)(x, tau), _field(mu_student, std)(x, tau), tau
        )
        weight = tau**2 / gaussian.noised_variance(tau, std)
        np.testing.assert_allclose(direction, -weight * (mu_teacher - mu_student), atol=1e-12)
        assert (-direction > 0).all()  # subtracting the direction raises the student's mean


# --- where the mean comes to rest ---

_CONDITIONAL, _UNCONDITIONAL, _SCALE, _STD = 1.0, -0.5, 4.0, 1.3**0.5


def _mean_directions(b, taus_matching, taus_guidance):
    """Averages both terms over levels for a student of mean b; equal variances, so any x does."""
    directions = distill.decoupled_directions(
        jnp.full((len(taus_matching), 1, 1), b),
        (jnp.zeros((len(taus_matching), 1, 1)),) * 2,
        (taus_matching, taus_guidance),
        _field(b, _STD),
        _field(_CONDITIONAL, _STD),
        _field(_UNCONDITIONAL, _STD),
        _SCALE,
    )
    return jnp.mean(directions.matching), jnp.mean(directions.guidance)


def _midpoints(low, high, count=200_000):
    return low + (high - low) * (jnp.arange(count) + 0.5) / count


@pytest.mark.parametrize(
    ("guidance_range", "expected"), [((0, 1), 5.5), ((0, 0.5), 2.211), ((0.5, 1), 8.789)]
)
def test_decoupled_levels_move_the_fixed_point_of_the_mean_as_computed(
    x64, guidance_range, expected
):
    taus_matching, taus_guidance = _midpoints(0, 1), _midpoints(*guidance_range)

    def weight(taus):
        return jnp.mean(taus**2 / gaussian.noised_variance(taus, _STD))

    ratio = weight(taus_guidance) / weight(taus_matching)
    b = _CONDITIONAL + (_SCALE - 1) * ratio * (_CONDITIONAL - _UNCONDITIONAL)
    np.testing.assert_allclose(b, expected, atol=5e-4)  # quoted to three digits
    matching, guided = _mean_directions(b, taus_matching, taus_guidance)
    np.testing.assert_allclose(matching + guided, 0.0, atol=1e-6)


def test_guidance_alone_drifts_by_the_same_amount_every_update(x64):
    taus, b, rate = _midpoints(0, 1, 100), 0.0, 0.1
    means = [b]
    for _ in range(20):
        b = b - rate * _mean_directions(b, taus, taus)[1]
        means.append(b)
    weight = jnp.mean(taus**2 / gaussian.noised_variance(taus, _STD))
    slope = rate * (_SCALE - 1) * weight * (_CONDITIONAL - _UNCONDITIONAL)
    np.testing.assert_allclose(np.diff(np.array(means)), slope, rtol=1e-12)


# --- how it enters autodiff ---


def test_the_surrogate_has_the_given_gradient_and_no_other(x64):
    x, gradient = jax.random.normal(jax.random.key(0), (2, 3, 5, 4), jnp.float64)

    def loss(x, g):
        return jnp.mean(distill.surrogate_loss(x, g))

    to_x, to_gradient = jax.grad(loss, argnums=(0, 1))(x, gradient)
    np.testing.assert_allclose(to_x, gradient / gradient.size, atol=1e-15)
    np.testing.assert_array_equal(to_gradient, 0.0)


def test_a_masked_surrogate_moves_no_padding(x64):
    x, gradient = jax.random.normal(jax.random.key(0), (2, 2, 5, 4), jnp.float64)
    mask = jnp.arange(5)[None] < jnp.array([[5], [2]])
    to_x = jax.grad(lambda x: jnp.mean(distill.surrogate_loss(x, gradient, mask)))(x)
    np.testing.assert_array_equal(to_x[1, 2:], 0.0)
    np.testing.assert_allclose(to_x[1, :2], gradient[1, :2] / (2 * 2 * 4), atol=1e-15)


def test_nothing_leaks_into_fake_score_teacher_or_normalizer(x64):
    x, noise = jax.random.normal(jax.random.key(0), (2, 3, 5, 4), jnp.float64)
    level = jnp.array([0.2, 0.5, 0.9])

    def loss(student_bias, means):
        generated = x + student_bias
        directions = distill.decoupled_directions(
            generated, (noise, noise), (level, 0.5 * level), *(_field(m, 1.1) for m in means), 3.0
        )
        weight = distill.normalizer(generated, directions.teacher_data)
        total = weight[:, None, None] * (directions.matching + directions.guidance)
        return jnp.mean(distill.surrogate_loss(generated, total)), total

    (to_bias, to_means), total = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        jnp.float64(0.3), tuple(map(jnp.float64, (0.1, 1.0, -0.4)))
    )
    np.testing.assert_array_equal(to_means, 0.0)  # fake score, teacher with and without condition
    # The student's gradient is the direct one: none through x_tau, none through the normaliser.
    np.testing.assert_allclose(to_bias, jnp.sum(total) / total.size, rtol=1e-12)


def test_the_normalised_gradient_is_blind_to_the_scale_of_the_latents(x64):
    x, data_teacher, direction = jax.random.normal(jax.random.key(0), (3, 4, 6, 2), jnp.float64)

    def normalised(scale):
        weight = distill.normalizer(scale * x, scale * data_teacher)
        return weight[:, None, None] * scale * direction

    np.testing.assert_allclose(normalised(1.0), normalised(37.0), rtol=1e-12)


# --- which states the student trains on ---


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
            generated, jnp.zeros((7, 1, 1)), taus, fake, teacher, teacher, 1.0
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


# --- adversarial terms ---


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


def test_log_snr_levels_are_uniform_in_log_snr():
    t = np.asarray(distill.draw_log_snr_level(jax.random.key(0), (100_000,)))
    log_snr = 2 * np.log((1 - t) / t)
    assert log_snr.min() > -6.001
    assert log_snr.max() < 2.001
    assert abs(log_snr.mean() + 2.0) < 0.03


def test_diagnostics_report_ratio_and_cosine_of_the_two_terms():
    one, other = jnp.zeros((1, 1, 2)).at[..., 0].set(2.0), jnp.full((1, 1, 2), 3.0)
    directions = distill.Directions(matching=one, guidance=other, teacher_data=jnp.zeros((1, 1, 2)))
    numbers = distill.diagnostics(directions, jnp.ones((1, 1, 2)))
    np.testing.assert_allclose(numbers["ca_over_dm"], 3 * 2**0.5 / 2, rtol=1e-6)
    np.testing.assert_allclose(numbers["dm_ca_cosine"], 0.5**0.5, rtol=1e-6)
    np.testing.assert_allclose(numbers["dm_gap"], 2 / 2**0.5, rtol=1e-6)


def test_a_perfect_fake_score_has_the_loss_no_model_can_beat():
    data_key, noise_key, level_key = jax.random.split(jax.random.key(0), 3)
    data = 0.3 + 0.8 * jax.random.normal(data_key, (1_000_000, 1, 1))
    noise = jax.random.normal(noise_key, data.shape)
    level = distill.draw_level(level_key, (1_000_000,), 0.0, 1.0)
    predicted = _field(0.3, 0.8)(flow.interpolate(data, noise, level), level)
    loss = jnp.mean(losses.velocity_loss(predicted, flow.velocity_target(data, noise)))
    np.testing.assert_allclose(loss, 0.8 * np.pi / 2, rtol=1e-2)  # 4 standard errors
