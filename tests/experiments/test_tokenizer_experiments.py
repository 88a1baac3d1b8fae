"""The statistics behind the ablation of poolers and the judgement of covers."""

import json

import numpy as np
import pytest

from experiments.tokenizer import ablation, covers

NAMES = list(ablation.VARIANTS)


def row(variant, seed, **values):
    numbers = dict.fromkeys(ablation.COLUMNS, 1.0) | values
    return {"variant": variant, "seed": seed, "pooler_parameters": 7, **numbers}


def test_an_interval_of_three_seeds_is_that_of_students_t():
    # scipy.stats.t.interval(0.95, 2, loc=2, scale=1/sqrt(3)) = (-0.4841, 4.4841)
    mean, half = ablation.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(2.4841, abs=1e-3)  # the table has four digits
    assert ablation.interval([5.0]) == (5.0, None)
    assert ablation.interval([]) is None


def test_variants_are_compared_seed_by_seed():
    rows = [row(NAMES[0], seed, error_true=seed) for seed in (0, 10)]
    rows += [row(NAMES[1], seed, error_true=seed + 0.5) for seed in (0, 10, 20)]
    summary = ablation.summarise(rows)
    assert list(summary) == NAMES[:2]
    assert summary[NAMES[1]]["seeds"] == [0, 10, 20]
    # seeds differ by ten and more, the variants of a seed by a half exactly
    assert summary[NAMES[1]]["error_true_difference"] == (0.5, 0.0)
    lines = ablation.table(summary).splitlines()
    assert len(lines) == 2 + 2
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "+0.5000 ± 0.0000" in lines[3]


def test_seeds_are_whole_before_the_rest_begins():
    runs = ablation.order([0, 1, 2])
    assert len(runs) == len(set(runs)) == 3 * len(NAMES)
    assert {seed for _, seed in runs[:3]} == {0}
    assert {name for name, _ in runs[:3]} == set(NAMES[:3])
    assert {name for name, _ in runs[9:]} == set(NAMES[3:])


def test_runs_of_other_processes_are_found_and_those_of_other_recipes_are_not(tmp_path):
    for name, seed, recipe in (("a", 1, {"x": 1}), ("b", 0, {"x": 1}), ("c", 0, {"x": 2})):
        (tmp_path / name).mkdir()
        saved = {"recipe": recipe, **row(NAMES[0], seed)}
        (tmp_path / name / "result.json").write_text(json.dumps(saved))
    assert [found["seed"] for found in ablation.collect(tmp_path, {"x": 1})] == [0, 1]


def test_a_table_of_correlations_is_read_along_its_diagonal():
    table = np.full((4, 4), 0.1) + 0.5 * np.eye(4)
    result = covers.describe(table, draws=100)
    assert result["own"] == pytest.approx(0.6)
    assert result["others"] == pytest.approx(0.1)
    np.testing.assert_allclose(result["gain_interval"], 0.5)  # every clip gains the same
    assert result["best_fit_share"] == 1
    assert "+0.500" in covers.table({"cover": result})


def test_a_sound_has_the_chroma_of_itself_transposed_by_octaves_and_of_nothing_else():
    time = np.arange(3 * 48_000) / 48_000
    tones = [np.sin(2 * np.pi * f * time)[:, None].repeat(2, 1) for f in (220.0, 440.0, 311.13)]
    table = covers.correlations(tones, tones)
    assert table[0, 1] > 0.9  # an octave apart
    assert table[0, 2] < 0.2  # a tritone apart
