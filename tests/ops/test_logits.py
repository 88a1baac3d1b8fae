"""From logits to a token: each rule by hand, and all of them as probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import logits as lib
from acestep_jax.ops.logits import Rules

ROW = jnp.log(jnp.array([[0.5, 0.2, 0.2, 0.1]]))


def kept(log_probs):
    return np.isfinite(np.asarray(log_probs[0])).tolist()


@pytest.mark.parametrize(
    "k,expected",
    [(0, [1, 1, 1, 1]), (1, [1, 0, 0, 0]), (2, [1, 1, 1, 0]), (4, [1, 1, 1, 1]), (9, [1, 1, 1, 1])],
)
def test_top_k_keeps_ties(k, expected):
    assert kept(lib.keep_top_k(ROW, jnp.array([k]))) == [bool(x) for x in expected]


@pytest.mark.parametrize(
    "p,expected",
    [(1.0, [1, 1, 1, 1]), (0.95, [1, 1, 1, 1]), (0.8, [1, 1, 1, 0]), (0.4, [1, 0, 0, 0])],
)
def test_top_p_keeps_the_fewest_that_reach_the_mass_and_at_least_one(p, expected):
    assert kept(lib.keep_top_p(ROW, jnp.array([p]))) == [bool(x) for x in expected]
    assert kept(lib.keep_top_p(ROW, jnp.array([1e-6])))[0]


def test_temperature_comes_before_the_filters():
    rules = Rules(jnp.array([0.5]), top_p=jnp.array([0.7]))
    # squares: 0.25, 0.04, 0.04, 0.01 of 0.34; the first alone has 0.735
    assert kept(lib.shape(ROW, rules)) == [True, False, False, False]
    assert kept(lib.shape(ROW, rules._replace(temperature=jnp.array([1.0]))))[:3] == [True] * 3


def test_guidance_extrapolates_raw_logits_and_only_above_one():
    rows = jnp.array([[1.0, 2.0], [1.0, 2.0], [0.0, 3.0], [0.0, 3.0]])
    guided = lib.raw(rows, Rules(jnp.ones(2), guidance=jnp.array([2.0, 1.0])))
    np.testing.assert_allclose(guided, [[2.0, 1.0], [1.0, 2.0]])


def test_the_penalty_divides_positive_and_multiplies_negative_logits_of_written_tokens():
    logits, seen = jnp.array([[2.0, -2.0, 2.0]]), jnp.array([[True, True, False]])
    penalised = lib.raw(logits, Rules(jnp.ones(1), penalty=jnp.array([4.0])), seen)
    np.testing.assert_allclose(penalised, [[0.5, -8.0, 2.0]])


def test_the_penalty_acts_on_conditional_logits_before_guidance():
    rows = jnp.array([[2.0, 1.0], [1.0, 1.0]])
    rules = Rules(jnp.ones(1), penalty=jnp.array([2.0]), guidance=jnp.array([3.0]))
    guided = lib.raw(rows, rules, jnp.array([[True, False]]))
    np.testing.assert_allclose(guided, [[1.0 + 3.0 * (1.0 - 1.0), 1.0]])


def test_draws_follow_the_probabilities():
    count = 4_000
    rules = Rules(jnp.ones(count), top_p=jnp.full(count, 0.85))
    log_probs = lib.shape(jnp.tile(ROW, (count, 1)), rules)
    keys = jax.random.split(jax.random.key(0), count)
    tokens, chosen = lib.choose(log_probs, keys, rules.temperature)
    expected = np.array([5, 2, 2, 0]) / 9  # the last is filtered out
    found = np.bincount(np.asarray(tokens), minlength=4) / count
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / count**0.5)  # 4 standard errors
    np.testing.assert_allclose(np.exp(chosen), expected[np.asarray(tokens)], rtol=1e-5)


def test_no_temperature_takes_the_best_token_of_every_item():
    tokens, log_probs = lib.choose(ROW, jax.random.split(jax.random.key(0), 1), None)
    assert tokens.tolist() == [0]
    assert float(jnp.exp(log_probs[0])) == pytest.approx(0.5)
