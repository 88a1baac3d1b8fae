"""Notebooks run from the first cell to the last, and what they measure with can tell."""

import json
import pathlib

import numpy as np
import pytest

from acestep_jax import units
from experiments.notebooks import evidence, run

TASKS = pathlib.Path(run.__file__).with_name("tasks.ipynb")


@pytest.fixture(scope="module")
def executed():
    """The notebook's outputs and names, in its smallest form."""
    return run.execute(run.read(TASKS), {"SONGS": 2, "SECONDS": 2.56, "STEPS": 1})


@pytest.mark.timeout(1500)
def test_the_tasks_are_shown_played_and_measured(executed):
    executed, namespace = executed
    outputs = [o for cell in executed["cells"] for o in cell.get("outputs", ())]
    players = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert len(players) == 7 and all("<audio" in player for player in players)
    assert [result.songs for result in namespace["results"]] == [2] * 7
    # to the sample, whatever the weights
    assert min(*namespace["kept"], *namespace["extended"]) == 1.0
    assert len(namespace["longer"][0]) == 1.25 * len(namespace["mixes"][0])


def test_the_notebook_is_kept_without_outputs_and_every_cell_has_a_name():
    cells = run.read(TASKS)["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert not any(cell.get("outputs") for cell in cells)


def cell(source, *tags):
    return {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}}


def test_cells_share_names_and_give_what_they_print_and_their_last_value():
    notebook = {"cells": [cell("a = 2", "parameters"), cell("print(a)\na * 3")], "nbformat": 4}
    executed, namespace = run.execute(notebook, {"a": 5})
    printed, value = executed["cells"][1]["outputs"]
    assert printed["text"] == "5\n" and value["data"]["text/plain"] == "15"
    assert namespace["a"] == 5 and "outputs" not in notebook["cells"][0]


def test_a_cell_that_fails_is_named():
    with pytest.raises(run.CellError, match=r"cell 1 \(1 / 0\): ZeroDivisionError"):
        run.execute({"cells": [cell("x = 1"), cell("1 / 0")]})
    with pytest.raises(ValueError, match=r"no parameters \['b'\]"):
        run.execute({"cells": [cell("a = 1", "parameters")]}, {"b": 1})


def test_the_copy_holds_the_outputs(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell("print('hello')")], "nbformat": 4}))
    assert run.main([str(path), "--out", str(tmp_path / "b" / "a.ipynb")]) == 0
    assert capsys.readouterr().out.startswith("hello\n")
    assert run.read(tmp_path / "b" / "a.ipynb")["cells"][0]["outputs"][0]["text"] == "hello\n"


def tone(*notes, seconds=2.0, partials=4):
    t = np.arange(int(seconds * units.SAMPLE_RATE)) / units.SAMPLE_RATE
    waves = [np.sin(2 * np.pi * k * 440 * 2 ** ((n - 69) / 12) * t) / k
             for n in notes for k in range(1, partials + 1)]  # fmt: skip
    return np.repeat(0.1 * np.sum(waves, axis=0)[:, None], 2, axis=1)


def test_chroma_hears_notes_and_not_their_sound():
    chord, brighter, other = tone(60, 64, 67), tone(60, 64, 67, partials=2), tone(61, 66, 70)
    assert evidence.fit(chord, 0.1 * brighter) > 0.9
    assert evidence.fit(chord, other) < 0.1
    assert evidence.timbre_distance(chord, brighter) > evidence.timbre_distance(chord, 0.5 * chord)


def test_a_distance_is_zero_at_any_level_and_grows_with_the_difference():
    noise = 0.1 * np.random.default_rng(0).standard_normal((96_000, 2))
    mixed = tone(60) + 0.3 * noise
    assert evidence.distance(mixed, mixed) == 0
    assert evidence.distance(mixed, 0.5 * mixed) < 0.5
    assert evidence.distance(mixed, tone(60)) < evidence.distance(noise, tone(60))


def test_comparisons_have_intervals_that_hold_their_mean():
    better = evidence.compare("a", np.eye(4) + 0.1, higher_is_better=True)
    assert (better.own, better.others) == pytest.approx((1.1, 0.1))
    assert better.better == pytest.approx((1.0, 1.0, 1.0))
    worse = evidence.compare("a", np.eye(4), higher_is_better=False)
    assert worse.better[2] < 0
    rng = np.random.default_rng(1)
    middle, low, high = evidence.compare("b", rng.random((9, 9)), higher_is_better=True).better
    assert low < middle < high
    with pytest.raises(ValueError, match="need two"):
        evidence.compare("a", np.eye(1), higher_is_better=True)


def test_unheard_pieces_are_not_of_the_training_split_and_their_stems_add_up(executed):
    piece = executed[1]["pieces"][0]
    assert piece.labels.split != "train"
    assert len(piece.mix) == 2.56 * units.SAMPLE_RATE
    # all but stems too quiet to be called heard
    np.testing.assert_allclose(sum(piece.stems.values()), piece.mix, atol=0.02)
    assert piece.fields["caption"] and piece.tracks[0] in piece.stems
