"""Distribution matching against closed forms: every field here is that of a known Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import distill, flow, gaussian, guidance, losses


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


@pytest.mark.parametrize("rule", distill.EXCESSES)
def test_coupled_is_decoupled_when_both_terms_see_the_same_noise(x64, rule):
    x, noise = jax.random.normal(jax.random.key(0), (2, 4, 6, 2), jnp.float64)
    level = jnp.array([0.1, 0.3, 0.7, 0.9])
    fields = {
        "fake": _field(0.1, 0.9),
        "conditional": _field(1.0, 1.2),
        "unconditional": _field(0.0, 1.5),
    }
    settings = {"scale": 3.0, "rule": rule}
    coupled = distill.coupled_directions(x, (noise,), (level,), **settings, **fields)
    twice = (noise, noise), (level, level)
    decoupled = distill.decoupled_directions(x, *twice, **settings, **fields)
    for one, other in zip(coupled, decoupled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


def test_projected_guidance_pulls_across_the_conditional_velocity_and_no_further_than_its_bound(
    x64,
):
    v_c, v_u = jax.random.normal(jax.random.key(0), (2, 4, 6, 2), jnp.float64)
    level, scale = jnp.array([0.1, 0.3, 0.7, 0.9]), 4.5
    term = distill.guidance_direction(v_c, v_u, level, scale, rule="apg")
    np.testing.assert_allclose(jnp.sum(term * v_c, axis=1), 0.0, atol=1e-12)  # over time
    lengths = jnp.sqrt(jnp.sum(term**2, axis=1)) / level[:, None]
    assert (lengths <= (scale - 1) * guidance.LONGEST + 1e-12).all()
    # Of a short difference across v_c nothing is taken away: plain guidance.
    across = v_u - jnp.sum(v_u * v_c, 1, keepdims=True) / jnp.sum(v_c**2, 1, keepdims=True) * v_c
    near = v_c - 0.1 * across
    projected, plain = (
        distill.guidance_direction(v_c, near, level, scale, rule=rule) for rule in ("apg", "cfg")
    )
    np.testing.assert_allclose(projected, plain, atol=1e-12)


def test_projected_guidance_leaves_padding_out(x64):
    v_c, v_u = jax.random.normal(jax.random.key(0), (2, 1, 6, 2), jnp.float64)
    given = {"level": jnp.array([0.5]), "scale": 3.0, "rule": "apg"}
    mask = jnp.arange(6)[None] < 4
    padded = distill.guidance_direction(v_c, v_u, frame_mask=mask, **given)
    alone = distill.guidance_direction(v_c[:, :4], v_u[:, :4], **given)
    np.testing.assert_allclose(padded[:, :4], alone, atol=1e-12)


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


# --- what is reported, and what no fake score can beat ---


def test_diagnostics_report_ratio_and_cosine_of_the_two_terms():
    one, other = jnp.zeros((1, 1, 2)).at[..., 0].set(2.0), jnp.full((1, 1, 2), 3.0)
    directions = distill.Directions(matching=one, guidance=other, teacher_data=jnp.zeros((1, 1, 2)))
    numbers = distill.diagnostics(directions, jnp.ones((1, 1, 2)))
    np.testing.assert_allclose(numbers["ca_over_dm"], 3 * 2**0.5 / 2, rtol=1e-6)
    np.testing.assert_allclose(numbers["dm_ca_cosine"], 0.5**0.5, rtol=1e-6)
    np.testing.assert_allclose(numbers["dm_gap"], 2 / 2**0.5, rtol=1e-6)


def test_a_fake_score_that_knows_the_songs_is_nearer_to_them_than_the_teacher():
    generated = jnp.ones((2, 3, 4))
    teacher_data = 3.0 * generated  # off by 2
    matching = -1.5 * generated  # so the fake score's estimate, 1.5, is off by 0.5
    found = distill.diagnostics(distill.Directions(matching, generated, teacher_data), generated)
    np.testing.assert_allclose(found["fake_over_teacher"], 0.25, rtol=1e-6)
    np.testing.assert_allclose(found["dm_gap"], 0.75, rtol=1e-6)


def test_the_ratio_of_deviations_counts_own_frames_of_each_channel():
    real = jnp.array([[[1.0, 10.0], [-1.0, -10.0], [99.0, 99.0]]])
    generated = jnp.array([[[3.0, 15.0], [-1.0, 5.0], [-99.0, 0.0]]])
    mask = jnp.array([[True, True, False]])
    ratio = distill.channel_std_ratio(generated, real, mask)
    np.testing.assert_allclose(ratio, (2 / 1 + 5 / 10) / 2, rtol=1e-6)


def test_a_perfect_fake_score_has_the_loss_no_model_can_beat():
    data_key, noise_key, level_key = jax.random.split(jax.random.key(0), 3)
    data = 0.3 + 0.8 * jax.random.normal(data_key, (1_000_000, 1, 1))
    noise = jax.random.normal(noise_key, data.shape)
    level = distill.draw_level(level_key, (1_000_000,), 0.0, 1.0)
    predicted = _field(0.3, 0.8)(flow.interpolate(data, noise, level), level)
    loss = jnp.mean(losses.velocity_loss(predicted, flow.velocity_target(data, noise)))
    np.testing.assert_allclose(loss, 0.8 * np.pi / 2, rtol=1e-2)  # 4 standard errors
