"""Every case of the committed parity folder, and the runner's own behaviour on faulty ones.

Tolerances are the folder's: 5e-5 for one network, 1e-4 for a whole trajectory and for audio, in the
2-norm relative to the expected array. Measured: at most 5e-6 (float32 against float32 PyTorch).
"""

import json
from pathlib import Path

import jax
import numpy as np
import parity_cases
import parity_prompts
import pytest
import run_cases

DATA = Path(__file__).parent / "data"
ALL = parity_cases.read_cases(DATA)


def parametrize(cases):
    """Marks as slow what compiles once more and shows nothing that a quick case does not."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.id, marks=[pytest.mark.slow] if is_slow(case) else [])
            for case in cases
        ],
    )


def is_slow(case):
    repeated = (
        "dit_base_short",
        "dit_xl",
        "cond_base",
        "cond_xl",
        "vae_tiny_decode_1",
        "sample_base_dcw",
        "e2e_xl",
    )
    contained = case.id == "e2e_turbo_shift3"  # the first item of e2e_turbo_batch2
    return contained or (case.entry["tier"] == "extended" and case.id.startswith(repeated))


@pytest.mark.parity
@parametrize(ALL)
def test_the_outputs_agree_with_the_release(case):
    outcomes = run_cases.run_case(case)
    assert outcomes
    assert all(outcome.passed for outcome in outcomes), "; ".join(map(str, outcomes))


def test_the_folder_has_the_number_of_cases_that_are_answered():
    assert len(ALL) == 99


def test_the_planners_prompts_and_readings_are_the_releases():
    content = json.loads((DATA / "prompts.json").read_text("utf-8"))
    checks = dict(parity_prompts.checks(DATA, content))
    assert checks["prompts_lm"]() == ""


@pytest.mark.parametrize("name", ["acestep-v15-turbo", "acestep-v15-xl-turbo"])
def test_a_package_read_from_the_diffusers_layout_gives_the_same_numbers(name, tmp_path):
    official = parity_cases.load_model(DATA / "checkpoints" / name)
    parity_cases.weights.save_model(tmp_path / "diffusers" / name, official, layout="diffusers")
    case = next(case for case in ALL if case.op == "dit_velocity" and name in str(case.entry))
    moved = parity_cases.Case(tmp_path, case.entry)
    found = parity_cases.load_model(moved.checkpoint("diffusers"))
    assert found.source.layout == "diffusers"
    jax.tree.map(np.testing.assert_array_equal, official.params, found.params)
    np.testing.assert_array_equal(official.silence_latent, found.silence_latent)


def perturbed(folder, case, change):
    """Writes a folder of one case whose expected outputs are changed."""
    expected = case.expected()
    change(expected)
    (folder / "cases").mkdir()
    np.savez(folder / case.entry["expected"], **expected)
    np.savez(folder / case.entry["inputs"], **case.inputs())
    (folder / "checkpoints").symlink_to(DATA / "checkpoints")
    (folder / "manifest.json").write_text(json.dumps({"cases": [case.entry]}))
    return parity_cases.Case(folder, case.entry)


def test_one_wrong_code_fails_an_exact_rule(tmp_path):
    case = next(case for case in ALL if case.op == "tokenize")

    def change(expected):
        expected["indices"][0, 0] += 1

    outcomes = run_cases.run_case(perturbed(tmp_path, case, change))
    assert {outcome.name for outcome in outcomes if not outcome.passed} == {"indices"}


def test_the_command_line_reports_a_failure_and_exits_with_one(tmp_path, capsys):
    case = next(case for case in ALL if case.op == "text_encode")

    def change(expected):
        expected["last_hidden_state"] *= 1.001  # twenty times the tolerance

    perturbed(tmp_path, case, change)
    assert run_cases.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED  text_encode: last_hidden_state 9.99e-04")
    assert lines[-1] == "0 passed, 1 failed"


def rule(kind, got, want, mask=None):
    return parity_cases.measure(np.asarray(got), np.asarray(want), kind, mask)


def test_distances_are_the_relative_norm_and_the_relative_maximum():
    error, worst = rule("float", [3.0, 4.5], [3.0, 4.0])
    assert error == pytest.approx(0.5 / 5)
    assert worst == pytest.approx(0.5 / 4)


def test_masked_elements_do_not_count_and_wrong_shapes_and_nan_always_fail():
    assert rule("float", [1.0, 9.0], [1.0, 2.0], np.array([1, 0])) == (0.0, 0.0)
    assert rule("float", [1.0], [1.0, 1.0])[0] == float("inf")
    assert rule("float", [np.nan, 1.0], [1.0, 1.0])[0] == float("inf")


def test_an_unknown_operation_is_a_failure():
    case = parity_cases.Case(DATA, {"id": "x", "op": "dance", "params": {}})
    with pytest.raises(NotImplementedError, match="dit_velocity"):
        run_cases.run_case(case)
