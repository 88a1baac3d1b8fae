"""The measures that judge reinforcement, against counts by hand; and the ablations."""

import importlib
import itertools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rl import evaluate, gains, planning, runner

FOLDER = pathlib.Path(runner.__file__).parent
SHARED = {"__init__", "evaluate", "gains", "planning", "runner", "singing"}
ABLATIONS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in SHARED)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_best_of_several_is_the_mean_over_all_ways_to_choose_them(count):
    rewards = np.random.default_rng(0).standard_normal((3, 5))
    expected = [
        np.mean([max(chosen) for chosen in itertools.combinations(row, count)]) for row in rewards
    ]
    np.testing.assert_allclose(gains.best_of(rewards, count), expected)
    with pytest.raises(ValueError, match="sample more of them"):
        gains.best_of(rewards, 6)


def test_a_gain_is_measured_prompt_by_prompt():
    rng = np.random.default_rng(1)
    start = 10 * rng.standard_normal((40, 1)) + 0.1 * rng.standard_normal((40, 4))
    found = gains.compare(start + 0.5, start)
    value, low, high = found["gain"]
    assert value == pytest.approx(0.5, abs=1e-3) and high - low < 1e-3  # prompts cancel
    assert found["best of 2"][0] > found["start"][0]
    assert found["gain over it (4)"][0] < found["gain over it (2)"][0] < value
    assert evaluate.verdict({"pmi": found, "b": found}, "pmi", "b") == {
        "above the start: gain over it (4)": True,
        "not lower by another reader": True,
        "higher by another reader": True,
    }
    worse = gains.compare(start - 0.5, start)
    assert not any(evaluate.verdict({"pmi": worse, "b": worse}, "pmi", "b").values())
    assert not evaluate.verdict({"pmi": found}, "pmi", "b")["not lower by another reader"]


def test_seeds_are_gathered_beside_the_first_run():
    def run(gain):
        numbers = {"start": [0, 0, 0], "gain": [gain, 0, 1]}
        return {"pmi": numbers, "parts": {"lyrics": [gain, 0, 1]}}

    assert evaluate.over_seeds([run(0.1)]) == run(0.1)
    found = evaluate.over_seeds([run(0.1), run(0.2), run(0.3)])
    assert found["pmi"] == run(0.1)["pmi"]
    assert list(found["seeds"]) == ["pmi, gain", "parts, lyrics"]
    gained = found["seeds"]["pmi, gain"]
    assert gained["each"] == [0.1, 0.2, 0.3]
    assert gained["mean"] == pytest.approx([0.2, 0.2 - 0.2484, 0.2 + 0.2484], abs=1e-3)


def test_different_codes_are_counted_once():
    tokens = jnp.array([[5, 7, 5, 9, 9], [1, 1, 1, 1, 1]])
    sung = jnp.array([[True, True, True, True, False], [True, True, False, False, False]])
    assert planning.distinct(tokens, sung).tolist() == [3, 1]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_asks_one_question_and_its_variants_can_be_built(name):
    module = importlib.import_module(f"experiments.rl.{name}")
    ablation = module.ABLATION
    assert ablation.name == name
    assert module.__doc__.startswith(ablation.question) and ablation.question.endswith("?")
    plans = []
    for variant in ablation.variants:
        for quick in (False, True):
            config = runner.plan(ablation, variant, 1, pathlib.Path("somewhere"), quick)
            assert config.seed == 1 and config.num_steps == (2 if quick else config.num_steps)
        plans.append(runner.plan(ablation, variant, 1, pathlib.Path("somewhere"), False))
    assert len(set(plans)) == len(plans) > 1, "two variants are the same"


ROWS = [
    {"variant": name, "seed": seed, "seconds": 60.0, "measures": {"aas gain": x, "style": 0.1}}
    for name, mean in (("one", 0.1), ("other", 0.5))
    for seed, x in enumerate((mean - 0.01, mean, mean + 0.01))
]


def test_results_are_kept_and_only_gains_are_ranked(tmp_path):
    ablation = runner.Ablation("toy", "Is one better?", "dit", {"one": (), "other": ()})
    runner.keep(ablation, ROWS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"toy.json", "toy.md", "toy.svg"}
    text = (tmp_path / "toy.md").read_text()
    assert "- aas gain: other is highest" in text and "style:" not in text
    even = [row | {"measures": {"aas gain": 0.1 * row["seed"]}} for row in ROWS]
    assert "no order shown" in runner.table(ablation, even)


def test_weights_that_do_not_exist_are_passed_over():
    assert not evaluate.exists("asset:nano/nothing") and evaluate.exists("somebody/planner")
    assert evaluate.exists("asset:nano/acestep-v15-nano")
