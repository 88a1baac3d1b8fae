"""Two processes on loopback train, save, are killed and resume as one does."""

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


def start(workdir, *arguments, **variables):
    flags = os.environ["XLA_FLAGS"].split()
    if "--process" in arguments or variables:  # two devices each
        flags = [flag for flag in flags if "device_count" not in flag]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), XLA_FLAGS=" ".join(flags)) | variables
    return subprocess.Popen(
        [sys.executable, str(TOY), str(workdir), *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*running, code=0):
    """Waits for processes that should end with a status, and gives their last lines."""
    outputs = []
    for process in running:
        try:
            out, errors = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == code, errors[-2000:]
        outputs.append(out.strip().splitlines()[-1] if out.strip() else "")
    return outputs


def start_two(workdir, *arguments):
    port = free_port()
    return [start(workdir, *arguments, "--process", index, 2, port) for index in range(2)]


def srun_two(workdir):
    """Starts two processes with the variables that SLURM's srun gives its tasks."""
    job = next(job for job in range(os.getpid(), os.getpid() + 4096) if is_free(slurm_port(job)))
    shared = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    places = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    return [start(workdir, **shared, **place) for place in places]


def slurm_port(job):
    """The port on which JAX has the processes of a SLURM job meet."""
    return job % 2**12 + 65535 - 2**12 + 1


def is_free(port):
    with socket.socket() as listener:
        return listener.connect_ex(("127.0.0.1", port)) != 0


def without_last(source, target):
    """Copies a run that goes back to the checkpoint before its last."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "checkpoints" / str(checkpoint.steps_on_disk(source)[-1]))
    return target


def assert_same_end(left, right):
    ends = [jax.tree.leaves(checkpoint.load_all(workdir)) for workdir in (left, right)]
    for one, other in zip(*ends, strict=True):
        # Measured 6e-8: sums over processes are taken in another order
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.timeout(900)
def test_two_processes_train_save_are_killed_resume_and_match_one(tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    finish(start(alone))

    first, second = start_two(two, "--stop-at", 6, "kill")  # in the save, before its rename
    first.communicate(timeout=300)
    second.kill()
    second.communicate()
    assert first.returncode == -9
    assert checkpoint.steps_on_disk(two) == [3]

    told, other = start_two(two, "--stop-at", 5, "sigterm")
    finish(told, other, code=128 + 15)  # one is told to stop, both do, after the same step
    stopped = checkpoint.steps_on_disk(two)[-1]
    assert 5 <= stopped < 12

    ends = finish(*srun_two(two))
    assert ends[0] == ends[1]
    assert ends[0].startswith(f"from {stopped}:")
    assert_same_end(alone, two)

    joined = without_last(two, tmp_path / "joined")
    finish(start(joined))  # one process goes on for two
    assert_same_end(alone, joined)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "host:1"}, "--num_processes is missing"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "has no port"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, r"must lie in 0 \.\. 1"),
        ({"cluster": "off", "coordinator": "a:1", "num_processes": 2, "process_id": 0}, "alone"),
    ],
)
def test_flags_that_name_no_place_among_processes_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        processes.join(**given)


def test_processes_are_joined_only_where_a_launcher_started_several():
    srun = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
    assert processes.launched_together(srun)
    assert not processes.launched_together(srun | {"SLURM_NTASKS": "1"})
    assert not processes.launched_together({"SLURM_NTASKS": "2"})  # a shell of sbatch, not a task
    assert processes.launched_together({"OMPI_COMM_WORLD_SIZE": "4"})
    assert processes.launched_together({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"})
    assert not processes.launched_together({"TPU_WORKER_HOSTNAMES": "localhost"})


def test_a_position_in_the_data_is_taken_from_others_only_if_they_agree():
    assert processes.own(['{"i": 3}'] * 4) == {"i": 3}
    with pytest.raises(ValueError, match="read by 2 processes, each at a place of its own"):
        processes.own(['{"i": 3}', '{"i": 4}'])
