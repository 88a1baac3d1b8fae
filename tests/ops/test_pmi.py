"""PMI, recall and their combination: the release's numbers, and the laws behind them."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import pmi
from acestep_jax.ops.pmi import CONDITIONS, Marks

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/rewards/pmi_units.npz")
META = json.loads(str(GOLDEN["meta"]))
K = len(CONDITIONS)
COMBINE = jax.jit(pmi.combine)
RAW, BENT = (jax.jit(functools.partial(pmi.score, scale=scale)) for scale in (None, pmi.SCALE))


def by_condition(scores):
    """Lays {condition: score} out as [K] and which are present."""
    row = np.array([scores.get(name, 0.0) for name in CONDITIONS], np.float32)
    return row, np.array([name in scores for name in CONDITIONS])


@pytest.mark.parametrize("case", range(len(META["cases"])))
def test_log_probabilities_and_recalls_are_the_releases(case):
    logits, targets = GOLDEN[f"logits_{case}"], GOLDEN[f"targets_{case}"]
    k = META["cases"][case]["topk"]
    log_probs, ranks = jax.jit(pmi.token_scores)(logits, targets)
    # float32 beside float64 sums: measured 2e-7
    np.testing.assert_allclose(log_probs.mean(), GOLDEN[f"mean_logprob_{case}"], atol=1e-6)
    recall, curve = jax.jit(
        lambda r: (
            pmi.ranked(r, k).mean(),
            jnp.stack([pmi.within(r, j).mean() for j in range(1, k + 1)]),
        )
    )(ranks)
    np.testing.assert_allclose(recall, GOLDEN[f"recall_{case}"], atol=1e-6)
    np.testing.assert_allclose(curve, GOLDEN[f"recall_per_k_{case}"], atol=1e-6)


@pytest.mark.parametrize("case", META["sigmoid"], ids=str)
def test_squashing_is_the_releases_and_does_not_overflow(case):
    assert float(pmi.squash(case["pmi"], case["scale"])) == pytest.approx(case["score"], abs=1e-6)
    assert float(pmi.squash(-1e4, case["scale"])) == 0.0


@pytest.mark.parametrize("case", META["reward"], ids=str)
def test_parts_combine_as_in_the_release(case):
    names = ("caption", "lyrics", "metadata")
    weights = tuple(
        (case["weights"] or dict(zip(names, pmi.WEIGHTS, strict=True)))[n] for n in names
    )
    total = COMBINE(*by_condition(case["scores"]), weights).total
    assert float(total) == pytest.approx(case["total"], abs=1e-6)


def test_weights_that_add_up_to_nothing_give_zero():
    scores = COMBINE(*by_condition({"caption": 0.7}), (0.0, 0.5, 0.5))
    assert float(scores.total) == 0.0 and float(scores.caption) == pytest.approx(0.7)


def test_tokens_are_averaged_by_condition_and_absent_ones_count_for_nothing():
    parts = jnp.array([[7, 7, 1, 1, 1, 0]])
    log_probs, ranks = jnp.array([[-1.0, -3, -2, -2, -5, -99]]), jnp.array([[1, 2, 1, 11, 6, 1]])
    marks = jax.jit(pmi.mark)(log_probs, ranks, parts)
    assert marks.present[0].tolist() == [True] + [False] * 5 + [True, False]
    assert float(marks.log_probs[0, 6]) == -2.0 and float(marks.log_probs[0, 7]) == -np.inf
    assert float(marks.recall[0, 0]) == pytest.approx((1.0 + 0.0 + 0.5) / 3)
    silent = marks._replace(log_probs=marks.log_probs - 0.25)
    scores = RAW(marks, silent)
    assert float(scores.caption[0]) == pytest.approx(0.25) and float(scores.lyrics[0]) == 0.0
    assert float(scores.total[0]) == pytest.approx((0.5 * 0.25 + 0.2 * 0.5) / 0.7)
    slope = jax.jit(jax.grad(lambda x: pmi.score(marks, silent._replace(log_probs=x)).total[0]))
    assert np.isfinite(slope(silent.log_probs)).all()


def test_saturation_counts_scores_where_the_sigmoid_is_flat():
    scores, present = jnp.array([0.99, 0.5, 0.01, 0.999]), jnp.array([True, True, True, False])
    assert float(pmi.saturation(scores, present)) == pytest.approx(2 / 3)
    assert float(pmi.squash(0.3)) > pmi.SATURATED > float(pmi.squash(0.29))


def joint(seed=0, texts=3, codes=5):
    table = np.random.default_rng(seed).gamma(0.5, size=(texts, codes))
    return table / table.sum()


def marks_of(log_probs):
    """Marks of captions alone, [N, K] from [N]."""
    blank = np.full((*np.shape(log_probs), K), -np.inf)
    blank[..., 6] = log_probs
    return Marks(blank, np.zeros(blank.shape), np.broadcast_to(np.arange(K) == 6, blank.shape))


def test_information_is_symmetric_and_its_mean_is_the_mutual_information():
    # D7: exact conditionals of a joint law over texts and codes
    p = joint()
    p_text, p_code = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    with jax.enable_x64(True):
        unheard = marks_of(np.broadcast_to(np.log(p_text), p.shape))
        found = jax.jit(pmi.information)(marks_of(np.log(p / p_code)), unheard)[..., 6]
        np.testing.assert_allclose(found, np.log(p / p_text) - np.log(p_code), atol=1e-12)
        entropies = [-(q * np.log(q)).sum() for q in (p_text, p_code, p)]
        np.testing.assert_allclose(
            (p * np.asarray(found)).sum(), entropies[0] + entropies[1] - entropies[2], atol=1e-12
        )


def test_within_a_group_only_squashing_makes_the_baseline_count():
    heard = marks_of([-1.0, -1.2, -0.7])
    baselines = [marks_of(np.full(3, x)) for x in (-1.0, -2.0)]
    raw = [np.asarray(RAW(heard, b).total) for b in baselines]
    np.testing.assert_allclose(*[x - x.mean() for x in raw], atol=1e-6)
    bent = [np.asarray(BENT(heard, b).total) for b in baselines]
    assert bent[1].std() < 0.05 * bent[0].std()  # all three lie where it is flat
