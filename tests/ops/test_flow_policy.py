"""Steps that draw: their marginals, their gradient, and what reinforcement should end at."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import flow, flow_policy, gaussian, nft, policy, timesteps
from acestep_jax.ops.flow_policy import Transition

STRENGTH = 0.7


@pytest.fixture(autouse=True)
def _in_double():
    with jax.enable_x64(True):
        yield


def test_the_sde_step_follows_velocity_and_score_as_the_paper_writes_them():
    # C2, the mean: in the paper's time dt = t' - t is negative
    x, v = np.random.default_rng(0).standard_normal((2, 3, 4, 2))
    t, t_next = 0.7, 0.55
    sigma, dt = STRENGTH * np.sqrt(t / (1 - t)), t_next - t
    expected = x + (v - sigma**2 / 2 * np.asarray(flow.score_from_velocity(x, v, t))) * dt
    found = flow_policy.sde(jnp.asarray(x), jnp.asarray(v), jnp.asarray(t), t_next, STRENGTH)
    np.testing.assert_allclose(found.mean, expected, atol=1e-12)
    np.testing.assert_allclose(found.std, sigma * np.sqrt(-dt), atol=1e-12)
    first = flow_policy.sde_sigma(jnp.asarray(1.0), jnp.asarray(0.9), STRENGTH)
    assert float(first) == pytest.approx(STRENGTH * 3.0)  # the next time stands for 1


@functools.partial(jax.jit, static_argnames=("rule", "num_steps", "strength", "shift"))
def stds(rule, num_steps, strength, shift=1.0, std=1.0):
    """The deviation of the state at every time, for data N(0, std^2): exact, steps are linear."""
    times = timesteps.time_grid(num_steps, shift)

    def body(variance, interval):
        t, t_next = interval
        unit = jnp.ones((1, 1, 1))
        step = flow_policy.RULES[rule](
            unit, gaussian.velocity(unit, t, 0.0, std), t, t_next, strength
        )
        variance = variance * step.mean[0, 0, 0] ** 2 + step.std**2
        return variance, variance

    _, variances = jax.lax.scan(body, 1.0, (times[:-1], times[1:]))
    return jnp.sqrt(variances)


def test_the_sde_has_the_marginals_of_the_ode_in_the_limit():
    # C2: at 400 steps 1.188 against the target's 1.183, at 10 steps 1.136 (ODE 1.040)
    target, half = np.sqrt(1.4), np.sqrt(0.25 * 1.4 + 0.25)
    for count, bound in ((400, 0.006), (4000, 0.003)):  # measured 0.0049 and 0.0021
        path = np.asarray(stds("sde", count, STRENGTH, std=target))
        assert abs(path[-1] - target) < bound and abs(path[count // 2 - 1] - half) < bound
    assert float(stds("sde", 400, STRENGTH, std=target)[-1]) == pytest.approx(1.188, abs=2e-3)
    assert float(stds("sde", 10, STRENGTH, std=target)[-1]) == pytest.approx(1.136, abs=1e-3)
    assert float(stds("sde", 10, 0.0, std=target)[-1]) == pytest.approx(1.0389, abs=1e-4)


@pytest.mark.parametrize("shift, ode, drawn", [(1.0, 0.851, 0.951), (3.0, 0.795, 0.872)])
def test_on_eight_steps_the_sde_mends_part_of_the_shrinking(shift, ode, drawn):
    assert float(stds("sde", 8, 0.0, shift)[-1]) == pytest.approx(ode, abs=1e-3)
    quiet_end = stds("sde", 8, STRENGTH, shift)
    # the last step of a policy draws nothing
    t = timesteps.time_grid(8, shift)[-2]
    unit = jnp.ones((1, 1, 1))
    last = float((unit - t * gaussian.velocity(unit, t, 0.0, 1.0))[0, 0, 0])
    assert float(quiet_end[-2]) * last == pytest.approx(drawn, abs=0.03)


def test_cps_keeps_the_share_of_noise_and_draws_nothing_at_the_end():
    data, noise = np.random.default_rng(1).standard_normal((2, 1, 5, 3))
    x_t, v = 0.6 * noise + 0.4 * data, noise - data
    step = flow_policy.cps(jnp.asarray(x_t), jnp.asarray(v), jnp.asarray(0.6), 0.4, 0.5)
    kept = (np.asarray(step.mean) - 0.6 * data) / noise
    np.testing.assert_allclose(kept**2 + float(step.std) ** 2, 0.4**2, atol=1e-12)
    quiet = flow_policy.cps(jnp.asarray(x_t), jnp.asarray(v), jnp.asarray(0.6), 0.4, 0.0)
    np.testing.assert_allclose(quiet.mean, x_t - 0.2 * v, atol=1e-12)  # Euler
    assert float(flow_policy.cps(jnp.asarray(x_t), jnp.asarray(v), 0.6, 0.0, 0.5).std) == 0.0


def test_log_probabilities_and_divergences_are_means_over_what_counts():
    rng = np.random.default_rng(2)
    mean, x, other = rng.standard_normal((3, 2, 4, 3))
    mask = np.array([[True, True, False, False], [True] * 4])
    std = 0.3
    density = -((x - mean) ** 2) / (2 * std**2) - np.log(std * np.sqrt(2 * np.pi))
    expected = [density[0, :2].mean(), density[1].mean()]
    ours, theirs = Transition(mean, jnp.asarray(std)), Transition(other, jnp.asarray(std))
    np.testing.assert_allclose(flow_policy.log_prob(x, ours, mask), expected, atol=1e-12)
    apart = (mean - other) ** 2 / (2 * std**2)
    np.testing.assert_allclose(
        flow_policy.divergence(ours, theirs, mask), [apart[0, :2].mean(), apart[1].mean()]
    )
    # the mean over draws of log p - log q
    z = rng.standard_normal((4000, 1, 1))
    one = Transition(jnp.full((4000, 1, 1), 0.1), jnp.asarray(std))
    two = Transition(jnp.full((4000, 1, 1), 0.25), jnp.asarray(std))
    drawn = 0.1 + std * z
    gap = flow_policy.log_prob(drawn, one) - flow_policy.log_prob(drawn, two)
    np.testing.assert_allclose(np.mean(gap), 0.15**2 / (2 * std**2), atol=0.5 * 4 / 4000**0.5)


def test_the_policy_gradient_of_a_chain_lacks_its_last_step_alone():
    # C3: data N(0, 1.4), ten steps, a velocity shifted by theta, reward x_0. d x_0 / d theta is
    # -1.3276 along the chain; the last step draws nothing, so its -0.1 has no probability.
    times = np.asarray(timesteps.time_grid(10))
    count = 100_000

    def velocity(x, t, theta):
        return gaussian.velocity(x, t, 0.0, 1.4**0.5) + theta

    slopes, reach = [], 1.0  # d x_{k+1} / d theta and how far it is carried on
    for t, t_next in reversed(list(itertools.pairwise(times))):
        strength = STRENGTH if t_next > 0 else 0.0

        def mean(x, theta, t=t, t_next=t_next, strength=strength):
            at = jnp.asarray(t), jnp.asarray(t_next)
            step = flow_policy.sde(
                x * jnp.ones((1, 1, 1)), velocity(x, t, theta) * jnp.ones((1, 1, 1)), *at, strength
            )
            return step.mean[0, 0, 0]

        slopes.append(reach * float(mean(0.0, 1.0) - mean(0.0, 0.0)))
        reach *= float(mean(1.0, 0.0) - mean(0.0, 0.0))
    assert sum(slopes) == pytest.approx(-1.3276, abs=1e-4)
    assert slopes[0] == pytest.approx(-0.1)

    @jax.jit
    def estimate(key):
        start_key, *keys = jax.random.split(key, 11)
        x = jax.random.normal(start_key, (count, 1, 1))
        score = jnp.zeros(count)
        for key, *interval in zip(keys, times[:-1], times[1:], strict=True):
            t, t_next = map(jnp.asarray, interval)

            def transition(theta, x=x, t=t, t_next=t_next):
                return flow_policy.sde(x, velocity(x, t, theta), t, t_next, STRENGTH)

            if interval[1] == 0:
                x = x - t * velocity(x, t, 0.0)
                break
            now = transition(0.0)
            x_next = now.mean + now.std * jax.random.normal(key, x.shape)
            own = lambda theta: flow_policy.log_prob(x_next, transition(theta))  # noqa: B023, E731
            score += jax.jvp(own, (0.0,), (1.0,))[1]
            x = x_next
        each = x[:, 0, 0] * score
        return jnp.mean(each), jnp.std(each) / count**0.5

    found, error = estimate(jax.random.key(0))
    assert abs(float(found) - (sum(slopes) - slopes[0])) < 4 * float(error) < 0.1


def test_windows_slide_from_noise_to_data_and_leave_the_last_step():
    places = [int(flow_policy.window_start(jnp.asarray(s), 6, 2, 3)) for s in range(15)]
    assert places == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [0] * 3
    assert int(flow_policy.window_start(jnp.asarray(9), 6, 2, 0)) == 0
    with pytest.raises(ValueError, match="need more than 2"):
        flow_policy.window_start(jnp.asarray(0), 2, 2, 0)


def test_recentred_ratios_have_no_mean_and_the_same_gradient():
    ratios = jnp.array([[0.1, -0.3], [0.0, -0.2]])
    np.testing.assert_allclose(flow_policy.recentred(ratios).mean(1), 0.0, atol=1e-15)
    slope = jax.grad(lambda x: flow_policy.recentred(x)[0, 0])(ratios)
    np.testing.assert_allclose(slope, [[1.0, 0.0], [0.0, 0.0]])


# Negative-aware fine-tuning -----------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_lowest_loss_is_where_the_closed_form_says(beta):
    # C4: two modes, songs of the right one good with chance 0.9, of the left with 0.2
    centres, widths, goodness = np.array([-1.0, 1.5]), np.array([0.4, 0.3]), np.array([0.2, 0.9])
    t, x = 0.6, 0.35
    data = np.linspace(-4, 4, 4001)
    prior = np.exp(-((data[:, None] - centres) ** 2) / (2 * widths**2)) / widths
    seen = np.exp(-((x - (1 - t) * data) ** 2) / (2 * t**2))
    joint = prior * seen[:, None] / (prior * seen[:, None]).sum()  # of song and mode, given x_t
    weight, good = joint.sum(1), (joint * goodness).sum(1) / joint.sum(1)
    velocity = (x - data) / t  # that points from each song to x_t
    old = (weight * velocity).sum()
    chance = (weight * good).sum()
    better = (weight * good * velocity).sum() / chance
    expected = old + 2 / beta * chance * (better - old)

    def loss(v):
        full = lambda value: jnp.full((len(data), 1, 1), value)  # noqa: E731
        each = nft.contrast(
            full(v),
            full(old),
            full(x),
            jnp.full(len(data), t),
            jnp.asarray(data)[:, None, None],
            jnp.asarray(good),
            beta=beta,
            normalise=False,
        )
        return jnp.sum(jnp.asarray(weight) * each)

    grid = expected + np.linspace(-0.5, 0.5, 1001)
    found = grid[int(np.argmin(jax.jit(jax.vmap(loss))(grid)))]
    assert abs(found - expected) < 1e-3
    assert abs(expected - old) > 0.1


def test_advantages_become_chances_and_the_old_policy_follows_by_schedule():
    np.testing.assert_allclose(nft.optimality(jnp.array([-9.0, 0.0, 2.5])), [0.0, 0.5, 0.75])
    decays = {name: nft.old_decay(jnp.asarray(100), name) for name in ("copy", "slow", "late")}
    np.testing.assert_allclose([decays[n] for n in decays], [0.0, 0.1, 0.1875], rtol=1e-6)
    with pytest.raises(ValueError, match="use copy, slow or late"):
        nft.old_decay(jnp.asarray(0), "never")


def test_normalised_errors_do_not_depend_on_the_size_of_songs():
    rng = np.random.default_rng(0)
    v, old, x_t, data = rng.standard_normal((4, 2, 3, 2))
    given = (jnp.array([0.5, 0.8]), jnp.asarray(data), jnp.array([0.3, 0.9]))
    plain = nft.contrast(v, old, x_t, *given)
    louder = nft.contrast(3 * v, 3 * old, 3 * x_t, given[0], 3 * given[1], given[2])
    np.testing.assert_allclose(louder, 3 * plain, rtol=1e-12)  # squares over sizes


@pytest.mark.parametrize("linear, curvature", [(0.8, 0.0), (0.0, 1.5)])
def test_the_regularised_optimum_of_a_gaussian_is_a_shifted_or_narrower_one(linear, curvature):
    # C5: N(mu + s2 lambda / beta, s2) for a slope, precision 1 / s2 + kappa / beta for a parabola
    mean, variance, beta, centre = 0.3, 0.7, 0.4, 1.1
    x = np.linspace(-12, 14, 20001)
    rewards = linear * x - curvature / 2 * (x - centre) ** 2
    log_q = -((x - mean) ** 2) / (2 * variance)
    best = np.exp(np.asarray(policy.tilted(jnp.asarray(log_q), jnp.asarray(rewards), beta)))
    found = (best @ x, best @ x**2 - (best @ x) ** 2)
    precision = 1 / variance + curvature / beta
    middle = (mean / variance + (linear + curvature * centre) / beta) / precision
    np.testing.assert_allclose(found, (middle, 1 / precision), atol=1e-6)
