"""Policy gradients against enumeration: every group, every sequence, every estimator."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import policy
from acestep_jax.ops.policy import VARIANTS, Variant

LOGITS = np.array([0.3, -0.5, 0.8, 0.1])  # a bandit with K = 4 arms
REWARDS = np.array([1.0, 0.2, -0.7, 0.5])
REFERENCE = np.array([-0.2, 0.4, 0.1, 0.6])


@pytest.fixture(autouse=True)
def _in_double():
    with jax.enable_x64(True):
        yield


def log_policy(logits):
    return jax.nn.log_softmax(logits)


def gradient_of_value(rewards=REWARDS):
    return jax.jit(jax.grad(lambda x: jnp.sum(jnp.exp(log_policy(x)) * rewards)))(LOGITS)


@functools.partial(jax.jit, static_argnames=("variant", "members"))
def expected_gradient(variant, members, rewards=REWARDS):
    """Adds up the gradients of all groups, each times its probability."""
    groups = jnp.asarray(list(itertools.product(range(4), repeat=members)))
    chances = jnp.exp(jax.nn.log_softmax(jnp.asarray(LOGITS))[groups].sum(1))
    own, _ = policy.advantages(jnp.asarray(rewards)[groups], variant)

    def loss(logits):
        log_probs = log_policy(logits)[groups].reshape(-1, 1)
        old = jax.lax.stop_gradient(log_probs)
        ratio = policy.log_ratio(log_probs, old)
        each = policy.clipped(ratio, own.reshape(-1, 1), (0.2, 0.2))
        return jnp.sum(chances[:, None] * each.reshape(groups.shape)) / members

    return -jax.grad(loss)(jnp.asarray(LOGITS))


@pytest.mark.parametrize("members", [2, 3, 4])
def test_the_groups_mean_takes_its_share_of_the_gradient_and_the_others_mean_none(members):
    # D1
    true = gradient_of_value()
    mean = expected_gradient(Variant(scale="none"), members)
    np.testing.assert_allclose(mean, true * (members - 1) / members, atol=1e-12)
    others = expected_gradient(VARIANTS["rloo"], members)
    np.testing.assert_allclose(others, true, atol=1e-12)


def test_dividing_by_the_groups_spread_turns_the_gradient_the_less_the_larger_the_group():
    # D2: prompts of which one answer is far better than the others
    rewards = np.array([3.0, 0.2, -0.7, 0.5])
    true = np.asarray(gradient_of_value(rewards))
    cosines = []
    for members in (2, 3, 4):
        found = np.asarray(expected_gradient(VARIANTS["grpo"], members, rewards))
        cosines.append(found @ true / np.linalg.norm(found) / np.linalg.norm(true))
    np.testing.assert_allclose(cosines, [0.961, 0.976, 0.985], atol=1e-3)  # by hand, in numpy


def sequences(longest=3):
    """All answers over {stop, a, b}: tokens up to the stop or the longest length."""
    found = []
    for size in range(1, longest + 1):
        for body in itertools.product((1, 2), repeat=size - 1):
            found += [(*body, 0)] + ([(*body, 1), (*body, 2)] if size == longest else [])
    return found


def test_a_sum_over_tokens_has_the_gradient_and_a_mean_within_answers_has_not():
    # D3
    answers = sequences()
    lengths = np.array([len(a) for a in answers])
    tokens = np.array([[*a, *[0] * (3 - len(a))] for a in answers])
    before = np.concatenate([np.full((len(answers), 1), 3), tokens[:, :-1]], axis=1)
    mask = np.arange(3)[None] < lengths[:, None]
    rng = np.random.default_rng(0)
    table, rewards = rng.standard_normal((4, 3)), rng.standard_normal(len(answers))

    def log_probs(table):
        return jnp.where(mask, jax.nn.log_softmax(table)[before, tokens], 0.0)

    def value(table):
        return jnp.sum(jnp.exp(log_probs(table).sum(1)) * rewards)

    def expected(table, kind):
        """The loss of every answer by itself, times its probability."""
        own = log_probs(table)
        chance = jax.lax.stop_gradient(jnp.exp(own.sum(1)))
        ratio = policy.log_ratio(own, jax.lax.stop_gradient(own))
        each = policy.clipped(ratio, jnp.broadcast_to(rewards[:, None], own.shape), (0.2, 0.2))
        by_itself = jax.vmap(lambda v, m: policy.average(v[None], m[None], kind))(each, mask)
        return -jnp.sum(chance * by_itself)

    np.testing.assert_allclose(jnp.sum(jnp.exp(log_probs(table).sum(1))), 1.0, atol=1e-12)
    true = jax.jit(jax.grad(value))(table)
    constant = 3 * jax.jit(jax.grad(functools.partial(expected, kind="constant")))(table)
    np.testing.assert_allclose(constant, true, atol=1e-8)
    mean = jax.jit(jax.grad(functools.partial(expected, kind="sequence")))(table)
    cosine = float(jnp.sum(mean * true) / jnp.linalg.norm(mean) / jnp.linalg.norm(true))
    assert 0.5 < cosine < 0.99


def test_every_estimator_of_the_divergence_has_the_gradient_that_is_told():
    # D4
    log_q = jax.nn.log_softmax(jnp.asarray(REFERENCE))

    def forward(x):
        return jnp.sum(jnp.exp(log_policy(x)) * (log_policy(x) - log_q))

    def backward(x):
        return jnp.sum(jnp.exp(log_q) * (log_q - log_policy(x)))

    def sampled(x, name):
        """The mean of an estimator over arms drawn from the policy, as it is differentiated."""
        chances = jax.lax.stop_gradient(jnp.exp(log_policy(x)))
        return jnp.sum(chances * policy.KL[name](log_policy(x), log_q))

    expected = {"k1": lambda x: 0.0 * x.sum(), "k2": forward, "k3": backward}
    for name, truth in expected.items():
        found = jax.jit(jax.grad(functools.partial(sampled, name=name)))(LOGITS)
        np.testing.assert_allclose(found, jax.jit(jax.grad(truth))(LOGITS), atol=1e-12)
    for name in ("k1", "k3"):
        np.testing.assert_allclose(sampled(LOGITS, name), forward(LOGITS), atol=1e-12)

    def in_the_reward(x):
        chances = jax.lax.stop_gradient(jnp.exp(log_policy(x)))
        cost = jax.lax.stop_gradient(policy.k1(log_policy(x), log_q))
        return jnp.sum(chances * cost * log_policy(x))

    np.testing.assert_allclose(
        jax.jit(jax.grad(in_the_reward))(LOGITS), jax.jit(jax.grad(forward))(LOGITS), atol=1e-12
    )


def test_the_clip_stops_the_gradient_exactly_where_a_ratio_went_the_way_it_was_pushed():
    # D5
    ratios = np.array([0.5, 0.79, 0.81, 1.0, 1.27, 1.29, 3.0])
    log_ratios = np.log(np.concatenate([ratios, ratios]))
    advantage = np.concatenate([np.ones(7), -np.ones(7)])
    slope = jax.jit(jax.grad(lambda x: policy.clipped(x, advantage, (0.2, 0.28)).sum()))(log_ratios)
    stopped = np.asarray(policy.is_clipped(log_ratios, advantage, (0.2, 0.28)))
    assert ((np.asarray(slope) == 0) == stopped).all()
    assert stopped.tolist() == [False] * 5 + [True] * 2 + [True] * 2 + [False] * 5
    bounded = jax.grad(lambda x: policy.clipped(x, advantage, (0.2, 0.28), 2.0).sum())(log_ratios)
    assert (np.asarray(bounded) == 0).tolist() == [*stopped[:13], True]  # 3 > 2


def test_training_a_bandit_ends_at_the_tilted_law():
    # D6: the gradient of all groups at once, k2 as the divergence
    weight = 0.5
    log_q = jax.nn.log_softmax(jnp.asarray(REFERENCE))
    best = policy.tilted(log_q, jnp.asarray(REWARDS), weight)
    value = lambda p: jnp.sum(jnp.exp(p) * (REWARDS - weight * (p - log_q)))  # noqa: E731
    for arm in range(4):
        other = jax.nn.log_softmax(best.at[arm].add(1e-3))
        assert float(value(other)) < float(value(best))
    np.testing.assert_allclose(jax.grad(lambda x: value(log_policy(x)))(best), 0.0, atol=1e-12)

    def step(logits, _):
        chances = jnp.exp(log_policy(logits))

        def loss(x):
            own = log_policy(x)
            ratio = policy.log_ratio(own, jax.lax.stop_gradient(own))
            gain = policy.clipped(ratio, REWARDS - jnp.sum(chances * REWARDS), (0.2, 0.2))
            return jnp.sum(chances * (gain + weight * policy.k2(own, log_q)))

        return logits - jax.grad(loss)(logits), None

    logits, _ = jax.jit(lambda x: jax.lax.scan(step, x, length=300))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(jnp.exp(log_policy(logits)), jnp.exp(best), rtol=2e-2)


def test_groups_without_spread_and_invalid_ones_are_dropped():
    rewards = jnp.array([[0.5, 0.5, 0.5], [0.0, 0.5, 1.0], [0.1, 0.2, 0.3]])
    valid = jnp.array([True, True, False])
    for name, variant in VARIANTS.items():
        own, kept = policy.advantages(rewards, variant, valid)
        assert kept.tolist() == [False, True, False], name
        assert float(jnp.abs(own[0]).max()) == float(jnp.abs(own[2]).max()) == 0.0
        np.testing.assert_allclose(own[1].sum(), 0.0, atol=1e-12)
    own, _ = policy.advantages(rewards, Variant(scale="batch"))
    kept = np.concatenate([rewards[1] - 0.5, rewards[2] - 0.2])
    np.testing.assert_allclose(own[1], (rewards[1] - 0.5) / kept.std(), rtol=1e-4)
    limited, _ = policy.advantages(rewards, VARIANTS["grpo"], limit=1.0)
    assert float(limited.max()) == 1.0


def test_dropped_answers_weigh_nothing_in_any_average():
    values = jnp.array([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = jnp.array([[True, True, False], [True, False, False], [False] * 3])
    found = [
        float(policy.average(values, mask, kind)) for kind in ("sequence", "token", "constant")
    ]
    np.testing.assert_allclose(found, [(1.5 + 4) / 2, 7 / 3, 7 / 6])
    assert float(policy.average(values, mask & False, "token")) == 0.0
    with pytest.raises(ValueError, match="unknown average"):
        policy.average(values, mask, "median")


def test_a_sequences_ratio_is_its_mean_and_reaches_all_its_tokens():
    mask = jnp.array([[True, True, False]])
    old = jnp.array([[-1.0, -2.0, 0.0]])
    new = jnp.array([[-0.9, -2.3, 5.0]])
    advantage = jnp.array([1.0])

    def loss(x):
        return policy.policy_loss(x, old, advantage, mask, VARIANTS["gspo"])[0]

    assert float(loss(new)) == pytest.approx(-np.exp(-0.1))
    np.testing.assert_allclose(
        jax.grad(loss)(new), [[-np.exp(-0.1) / 2, -np.exp(-0.1) / 2, 0.0]], atol=1e-12
    )


def test_tokens_of_another_sampler_are_weighed_up_to_a_cap():
    weights = policy.importance(jnp.array([-1.0, -1.0]), jnp.array([-1.1, -3.0]), 2.0)
    np.testing.assert_allclose(weights, [np.exp(0.1), 2.0])
