"""The planner's evaluation: baselines with known answers, facts in captions, valid blueprints."""

import numpy as np
import pytest

from acestep_jax.tasks.planning.blueprint import Blueprint
from experiments.planner import evaluate
from experiments.planner.baselines import Counts


def walk(rng, length=400, states=4):
    """A Markov chain that stays with chance 0.9: entropy rate 0.435 nats."""
    codes, state = [], 0
    for _ in range(length):
        state = state if rng.random() < 0.9 else int(rng.integers(states))
        codes.append(state)
    return np.array(codes)


def test_counted_models_find_the_entropies_of_a_known_source():
    rng = np.random.default_rng(0)
    counts = Counts([walk(rng) for _ in range(60)], 4)
    held = [walk(rng) for _ in range(60)]
    stay = 0.9 + 0.1 / 4
    rate = -(stay * np.log(stay) + (1 - stay) * np.log((1 - stay) / 3))
    assert np.mean([counts.bigram(song) for song in held]) == pytest.approx(rate, abs=0.02)
    assert np.mean([counts.unigram(song) for song in held]) == pytest.approx(np.log(4), abs=0.02)


def test_codes_that_were_never_seen_cost_something_finite():
    counts = Counts([np.array([0, 1, 0, 1]), np.array([1, 0])], 1000)
    assert 6 < counts.unigram(np.array([7, 8])) < 20
    assert np.isfinite(counts.bigram(np.array([7, 8, 9])))


def test_tempo_and_key_are_read_from_captions():
    assert evaluate.facts("Acoustic folk in D minor, 84 BPM") == (84, "D minor")
    assert evaluate.facts("a slow song in A flat") == (None, None)


def test_a_blueprint_is_valid_if_a_request_could_hold_it():
    full = Blueprint(
        bpm=90, caption="x", duration=20, keyscale="C major", language="en", timesignature="4"
    )
    assert evaluate.is_valid(full)
    assert not evaluate.is_valid(Blueprint(**{**full.known(), "bpm": 500}))
    assert not evaluate.is_valid(Blueprint(**{**full.known(), "duration": None}))
    assert not evaluate.is_valid(Blueprint(**{**full.known(), "caption": None}))
