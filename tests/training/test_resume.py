"""A run that is killed, starved of disk or asked to stop goes on as if nothing had happened."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from acestep_jax.training.checkpoint import steps_on_disk

ROOT = pathlib.Path(__file__).parents[2]
TOY = pathlib.Path(__file__).with_name("toy_run.py")


def run_toy(workdir, *arguments):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, str(TOY), str(workdir), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240
    )


@pytest.mark.timeout(900)
def test_every_way_of_dying_leaves_the_last_checkpoint_and_the_same_final_state(tmp_path):
    straight = run_toy(tmp_path / "straight")
    assert straight.returncode == 0, straight.stderr
    digest = straight.stdout.split()[-1]
    workdir = tmp_path / "run"

    killed = run_toy(workdir, "--stop-at", 6, "kill")  # all is written, the rename is not done
    assert killed.returncode == -9
    assert steps_on_disk(workdir) == [3]

    full = run_toy(workdir, "--stop-at", 6, "full")
    assert full.returncode == 1
    last_line = full.stderr.splitlines()[-1]
    assert last_line.startswith("CheckpointError: saving step 6")
    assert "step 3 is still whole" in last_line
    assert steps_on_disk(workdir) == [3]
    assert not list((workdir / "checkpoints").glob("*tmp*"))  # the disk is free again

    stopped = run_toy(workdir, "--stop-at", 5, "sigterm")
    assert stopped.returncode == 128 + 15
    assert steps_on_disk(workdir) == [3, 5]

    resumed = run_toy(workdir)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split()[:2] == ["from", "5:"]
    assert resumed.stdout.split()[-1] == digest
    values = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "run")]
    assert _losses(values[0]) == _losses(values[1])


def _losses(lines):
    return [(row["step"], row["loss/fit"]) for row in map(json.loads, lines.splitlines())]
