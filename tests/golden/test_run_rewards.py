"""The runner of golden rewards passes on what the release gave, and fails on anything else."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_rewards", FOLDER / "run_rewards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow  # the tests of each module hold them to the same numbers
def test_every_golden_case_passes(runner, capsys):
    assert runner.main([str(FOLDER / "rewards")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "5 passed, 0 failed"
    assert all(line.startswith("passed") for line in lines[:-1])


@pytest.mark.slow
def test_a_wrong_case_fails_and_does_not_stop_the_others(runner, tmp_path, capsys):
    with np.load(FOLDER / "rewards/dtw_ties.npz") as data:
        arrays = {name: data[name] for name in data.files}
    wrong = arrays["path_2"].copy()
    wrong[3, 1] += 1
    np.savez(tmp_path / "a_wrong.npz", **{**arrays, "path_2": wrong})
    np.savez(tmp_path / "b_unknown.npz", meta=json.dumps({"kind": "other"}))
    shutil.copy(FOLDER / "rewards/dtw_ties.npz", tmp_path / "c_right.npz")
    assert runner.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAILED  a_wrong.npz: path_2 1.0e+00" in lines
    assert any(line.startswith("FAILED  b_unknown.npz: NotImplementedError") for line in lines)
    assert lines[-1] == "1 passed, 2 failed"
