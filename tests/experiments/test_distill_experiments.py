"""The measures that judge a student, against laws whose distance is known; and the ablations."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from acestep_jax.tasks import prompt
from experiments import runs
from experiments.distill import adherence, dots, evaluate, measures, players, runner, strength
from experiments.distill.measures import Moments

FOLDER = pathlib.Path(runner.__file__).parent
SHARED = {"__init__", "dots", "evaluate", "measures", "adherence", "players", "ring", "runner"}
SHARED |= {"strength", "seeds", "__main__"}
ABLATIONS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in SHARED)


def _songs(mean, std, seed, count=40, frames=16):
    noise = np.random.default_rng(seed).standard_normal((count, frames, 2))
    return (mean + std * noise).astype(np.float32)


def test_equal_laws_are_no_distance_apart_and_others_what_integration_gives():
    one, same, wide = _songs(0, 1, 0), _songs(0, 1, 1), _songs(3, 1, 2)
    ones = np.ones(40)
    assert abs(measures.energy(measures.distances(one, same), ones)) < 0.02
    # windows of 16 numbers, normalised: |x - y| -> sqrt(2) within, sqrt(2 + 9) across
    expected = 2 * np.sqrt(11) - 2 * np.sqrt(2)
    found = measures.energy(measures.distances(wide, one), ones)
    np.testing.assert_allclose(found, expected, rtol=0.05)  # fluctuations of 16 numbers


def test_a_songs_distance_is_the_mean_over_the_windows_of_both():
    x, y = _songs(0, 1, 0, count=2, frames=5), _songs(100, 1, 1, count=3, frames=5)
    windows = [z[:, :4].reshape(len(z), 2, 4).astype(float) for z in (x, y)]
    gaps = windows[0][:, None, :, None] - windows[1][None, :, None]
    expected = np.sqrt(np.mean(gaps**2, -1)).mean((2, 3))
    np.testing.assert_allclose(measures.song_distances(x, y, 2), expected, rtol=1e-10)


def test_pairs_of_one_prompt_do_not_count():
    songs = _songs(0, 1, 0)
    close = songs + 1e-3  # each song beside itself: zero distance where prompts agree
    found = measures.energy(measures.distances(close, songs), np.ones(40))
    assert abs(found) < 1e-3


def test_a_prompt_that_is_drawn_twice_counts_twice():
    x, y = _songs(0, 1, 0, count=4), _songs(1, 1, 1, count=4)
    weights = np.array([2.0, 1.0, 0.0, 1.0])
    pairs = measures.distances(x, y)
    picked = [0, 0, 1, 3]
    blocks = [block[np.ix_(picked, picked)] for block in pairs]
    counted = np.array([[a != b for b in picked] for a in picked])
    across, ours, theirs = (block[counted].mean() for block in blocks)
    np.testing.assert_allclose(measures.energy(pairs, weights), 2 * across - ours - theirs)


def _moments(frames):
    products = np.einsum("NFM,NFK->NMK", frames, frames)
    return Moments(np.full(len(frames), frames.shape[1]), frames.sum(1), products)


def test_the_frechet_distance_of_two_gaussians_is_that_of_their_means_and_deviations():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    x = rng.standard_normal((20, 5000, 3)) * [1, 2, 3] @ turn
    y = rng.standard_normal((20, 5000, 3)) * [2, 2, 1] @ turn + [1, 0, 2]
    expected = 1 + 4 + (2 - 1) ** 2 + 0 + (3 - 1) ** 2  # one basis: differences of deviations
    found = measures.frechet(_moments(x), _moments(y), np.ones(20))
    np.testing.assert_allclose(found, expected, rtol=0.03)  # 100,000 frames
    assert abs(measures.frechet(_moments(x), _moments(x), np.ones(20))) < 1e-6


def test_mel_moments_are_those_of_all_frames_and_follow_the_level():
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 24_000, 2))
    loud, soft = (measures.log_mel_moments(x) for x in (noise, 0.1 * noise))
    means = [m.sums / m.counts[:, None] for m in (loud, soft)]
    assert means[0].shape == (2, measures.MELS)
    np.testing.assert_allclose(means[0] - means[1], 2.0, atol=1e-3)  # powers: a hundredth


def test_intervals_hold_the_mean_of_what_was_drawn():
    values = np.random.default_rng(0).normal(5.0, 1.0, 100)
    found = measures.bootstrap(lambda w: float(np.average(values, weights=w)), 100)
    np.testing.assert_allclose(found.value, values.mean())
    half = 1.96 * values.std() / 10
    np.testing.assert_allclose(
        [found.low, found.high], [found.value - half, found.value + half], atol=0.04
    )


def test_diversity_is_the_ratio_of_distances_between_seeds():
    teacher = measures.seed_distances(_songs(0, 1, 0), _songs(0, 1, 1))
    student = measures.seed_distances(_songs(0, 0.5, 2), _songs(0, 0.5, 3))
    found = measures.diversity(student, teacher, np.ones(40))
    np.testing.assert_allclose(found, 0.5, rtol=0.03)


def test_a_student_nearer_than_half_passes_and_another_fails():
    def found(ratio, diversity):
        row = {"system": "student", "steps": 8, "ratio": [ratio, 0, 1]}
        return evaluate.verdict({"rows": [row], "diversity": [diversity, 0, 1]})

    assert all(found(0.3, 0.95).values())
    assert not any(found(0.6, 0.8).values())


def test_the_means_of_several_students_must_pass_as_well():
    students = {
        "8 steps, shift 1, ratio": {"mean": [0.6, 0, 1]},
        "8 steps, shift 1, frechet": {"mean": [0.9, 0, 1]},
        "4 steps, shift 1, ratio": {"mean": [0.9, 0, 1]},
    }
    row = {"system": "student", "steps": 8, "ratio": [0.3, 0, 1]}
    found = {"rows": [row], "diversity": [0.95, 0, 1], "students": students}
    assert list(evaluate.verdict(found).values()) == [False, True]
    students["8 steps, shift 1, ratio"]["mean"][0] = 0.4
    students["diversity"] = {"mean": [0.8, 0, 1]}
    assert list(evaluate.verdict(found).values()) == [True, False]


def test_prompts_are_read_as_the_pipeline_writes_them():
    text = prompt.caption_prompt("a song in A minor", bpm=93, keyscale="F# minor", duration=5.0)
    assert adherence.read_prompt(text) == (93.0, "F# minor")
    assert adherence.read_prompt(prompt.caption_prompt("bpm: 90", duration=5.0)) == (None, None)


def test_adherence_counts_the_prompts_that_ask_and_pairs_the_systems():
    seconds = np.arange(6 * 48_000) / 48_000
    clicks = 0.5 * (seconds % 0.5 < 0.01) * np.sin(2 * np.pi * 1000 * seconds)
    audio = np.stack([np.stack([clicks, clicks], axis=-1)] * 3)
    found = adherence.hits(
        audio,
        [adherence.Asked(120.0, None), adherence.Asked(87.0, None), adherence.read_prompt("")],
    )
    np.testing.assert_array_equal(found["tempo"], [1, 0, np.nan])
    assert np.isnan(found["key"]).all()
    np.testing.assert_allclose(adherence.share(found["tempo"]).value, 0.5)
    other = np.array([0.0, 0.0, np.nan])
    np.testing.assert_allclose(adherence.difference(other, found["tempo"]).value, -0.5)


def test_songs_half_as_varied_as_real_ones_are_told_from_them():
    rng = np.random.default_rng(0)
    songs, real = rng.standard_normal((2, 8, 16, 64)).astype(np.float32)
    nothing = adherence.Asked(None, None)
    stage = players.Stage(None, {}, [], [nothing] * 8)
    within = measures.song_distances(real, real)
    flat = strength.measure(stage, 0.5 * songs, real, within)
    equal = strength.measure(stage, songs, real, within)
    assert set(flat) == {"energy", "spread"}, "no prompt names tempo or key"
    np.testing.assert_allclose([flat["spread"], equal["spread"]], [0.5, 1.0], rtol=0.02)
    # windows of 512 numbers: |x - y| -> sqrt(1 + 1/4), sqrt(1/2) and sqrt(2)
    expected = 2 * np.sqrt(1.25) - np.sqrt(0.5) - np.sqrt(2)
    np.testing.assert_allclose(flat["energy"][0], expected, rtol=0.1)
    assert abs(equal["energy"][0]) < 0.01


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_asks_one_question_and_its_variants_can_be_built(name):
    module = importlib.import_module(f"experiments.distill.{name}")
    ablation = module.ABLATION
    assert ablation.name == name
    assert module.__doc__.startswith(ablation.question) and ablation.question.endswith("?")
    plans = []
    for changes in ablation.variants.values():
        for quick in (False, True):
            config = runner.plan(changes, 1, pathlib.Path("somewhere"), quick)
            assert config.seed == 1 and not config.model.vae_weights
        plans.append(runner.plan(changes, 1, pathlib.Path("somewhere"), False))
    assert len(set(plans)) == len(plans) > 1, "two variants are the same"


ROWS = [
    {"variant": name, "seed": seed, "seconds": 60.0, "measures": {"8 steps": x, "diversity": 1.0}}
    for name, mean in (("one", 0.1), ("other", 0.5))
    for seed, x in enumerate((mean - 0.01, mean, mean + 0.01))
]


def test_a_summary_has_the_mean_over_seeds_and_students_interval():
    summary = runner.summarise(ROWS)
    mean, low, high = summary["one"]["8 steps"]
    half = 4.303 * 0.01 / 3**0.5  # Student's t with two degrees of freedom
    np.testing.assert_allclose([mean, low, high], [0.1, 0.1 - half, 0.1 + half], atol=1e-4)


def test_an_order_is_shown_by_differences_of_pairs_of_seeds():
    told = runner.verdict(ROWS, "8 steps")
    assert told.startswith("8 steps: one is best; farther by pairs of seeds: other by ")
    # seeds differ far more than variants, and every pair by the same: shown all the same
    apart = {"one": 0.0, "other": 0.01}
    paired = [_row(row, row["seed"] + apart[row["variant"]]) for row in ROWS]
    assert runner.verdict(paired, "8 steps").endswith("other by 0.01 (0.01 to 0.01)")
    crossed = [_row(row, abs(row["seed"] - 2 * (row["variant"] == "other"))) for row in ROWS]
    assert runner.verdict(crossed, "8 steps").endswith("no order shown to other")
    lone = runner.verdict(ROWS[:4], "8 steps")
    assert lone == "8 steps: one has the smallest mean; no order shown to other"


def _row(row, value):
    return row | {"measures": {"8 steps": float(value), "diversity": 1.0}}


def test_results_are_kept_as_numbers_table_and_plot(tmp_path):
    ablation = runner.Ablation("toy", "Is one better?", {"one": (), "other": ()}, ((8, 1.0),))
    runner.keep(ablation, ROWS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"toy.json", "toy.md", "toy.svg"}
    text = (tmp_path / "toy.md").read_text()
    assert "| one | 3 | 1.0 | 0.100 (0.075 to 0.125) | 1.000" in text
    assert "- 8 steps: one is best" in text


def test_a_plot_has_a_dot_and_a_bar_a_row():
    drawn = dots.dot_plot("A & B", [dots.Row("a", 0.5, 0.2, 0.9), dots.Row("b", 1.5, 1.0, 2.0)])
    assert drawn.count("<circle") == 2 and "A &amp; B" in drawn
    assert 'stroke="#888"' in drawn  # where both would be equal


def test_runs_have_one_folder_if_and_only_if_they_are_the_same():
    modules = [importlib.import_module(f"experiments.distill.{name}") for name in ABLATIONS]
    variants = [changes for m in modules for changes in m.ABLATION.variants.values()]
    folder = pathlib.Path("runs")
    places = [runner.place(folder, changes, 0, False) for changes in variants]
    configs = [runner.plan(changes, 0, folder, False) for changes in variants]
    assert len(set(places)) == len(set(configs)) == len(set(zip(places, configs, strict=True)))
    assert places.count(folder / "recipe-0") > 4, "most questions compare with the recipe"
    assert runner.place(folder, (), 1, False) != runner.place(folder, (), 0, False)


def test_a_run_that_ended_is_not_trained_again(tmp_path):
    (tmp_path / "seconds").write_text("12.5")
    config = runner.plan((), 0, tmp_path, True)
    assert runs.run_once(lambda _: pytest.fail("trained again"), config) == 12.5
    assert list(tmp_path.iterdir()) == [tmp_path / "seconds"]


def test_a_run_is_trained_and_leaves_its_seconds_but_no_checkpoints(tmp_path):
    config = runner.plan((), 0, tmp_path, True)

    def main(given):
        assert given is config and (tmp_path / "config.json").exists()
        (tmp_path / "checkpoints").mkdir()

    assert 0 <= runs.run_once(main, config) == runs.run_once(main, config) < 10
    assert not (tmp_path / "checkpoints").exists()


def test_students_of_several_seeds_are_gathered_measure_by_measure():
    def one(ratio, frechet, key):
        row = {"steps": 8, "shift": 1.0, "ratio": [ratio, 0, 1], "frechet": [frechet, 0, 1]}
        adherence = {"key": {"difference": [key, -1, 1]}}
        return {"rows": [row], "diversity": [0.9, 0, 1], "adherence": adherence}

    found = evaluate.over_students([one(0.2, 0.5, -0.1), one(0.4, 0.7, 0.1)])
    assert {name: row["each"] for name, row in found.items()} == {
        "8 steps, shift 1, ratio": [0.2, 0.4],
        "8 steps, shift 1, frechet": [0.5, 0.7],
        "diversity": [0.9, 0.9],
        "key as asked, less the teacher's": [-0.1, 0.1],
    }
    assert found["8 steps, shift 1, ratio"]["mean"][0] == pytest.approx(0.3)


def test_what_was_measured_of_a_run_is_not_measured_again(tmp_path, monkeypatch):
    more = {runner.REAL: 0.7, "diversity": 0.9}
    kept = {"8 steps, shift 3": 0.25, "4 steps, shift 1.5": 0.5, **more}
    (tmp_path / "measures.json").write_text(json.dumps(kept))
    judge = runner.Judge(True)
    monkeypatch.setattr(players, "load_student", lambda _: pytest.fail("measured again"))
    assert judge(tmp_path, [(8, 3.0)]) == {"8 steps, shift 3": 0.25, **more}
    found = judge(tmp_path, [(4, 1.5), (8, 3.0)])
    assert list(found) == ["4 steps, shift 1.5", "8 steps, shift 3", *more]


@pytest.mark.slow
def test_the_shipped_pair_is_measured_whole():
    small = ["--prompts", "8", "--teacher_steps", "2", "--steps", "8", "--shifts", "3"]
    found = evaluate.main(small)
    systems = [row["system"] for row in found["rows"]]
    assert systems == ["teacher again", "undistilled", "student"]
    assert "students" not in found
    twice = evaluate.main([*small, "--no_sound", "--others", players.STUDENT])["students"]
    assert set(twice) == {"8 steps, shift 3, ratio", "diversity"}
    for measured in twice.values():  # the same weights, measured again
        assert measured["each"][0] == pytest.approx(measured["each"][1], abs=1e-3)
    assert all(0 < found["adherence"][name]["count"] <= 8 for name in ("tempo", "key"))
    assert len(found["targets"]) == 4
