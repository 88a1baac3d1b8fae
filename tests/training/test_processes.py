"""Two processes on loopback train, save and resume as one does."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from acestep_jax.training import checkpoint, processes

ROOT = pathlib.Path(__file__).parents[2]
TOY = pathlib.Path(__file__).with_name("toy_run.py")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(workdir, *arguments):
    flags = os.environ["XLA_FLAGS"].split()
    if "--process" in arguments:  # two devices each
        flags = [flag for flag in flags if "device_count" not in flag]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), XLA_FLAGS=" ".join(flags))
    return subprocess.Popen(
        [sys.executable, str(TOY), str(workdir), *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*running):
    outputs = []
    for process in running:
        try:
            out, errors = process.communicate(timeout=200)
        finally:
            process.kill()
        assert process.returncode == 0, errors[-2000:]
        outputs.append(out.strip().splitlines()[-1])
    return outputs


def run_two(workdir):
    port = free_port()
    return finish(*(start(workdir, "--process", index, 2, port) for index in range(2)))


def rewound(source, target):
    """Copies a run that goes back to its checkpoint of step 9."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "checkpoints" / "12")
    return target


def assert_same_end(left, right):
    ends = [jax.tree.leaves(checkpoint.load_all(workdir)) for workdir in (left, right)]
    for one, other in zip(*ends, strict=True):
        # Measured 6e-8: sums over processes are taken in another order
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.timeout(400)
def test_two_processes_train_save_and_resume_like_one(tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    finish(start(alone))
    first, second = run_two(two)
    assert first == second
    assert_same_end(alone, two)

    again = run_two(rewound(two, tmp_path / "again"))
    assert again == [first.replace("from 0", "from 9")] * 2  # bit for bit
    finish(start(rewound(two, tmp_path / "joined")))  # one process goes on for two
    assert_same_end(alone, tmp_path / "joined")


def test_a_position_in_the_data_is_taken_from_others_only_if_they_agree():
    assert processes.own(['{"i": 3}'] * 4) == {"i": 3}
    with pytest.raises(ValueError, match="read by 2 processes, each at a place of its own"):
        processes.own(['{"i": 3}', '{"i": 4}'])
