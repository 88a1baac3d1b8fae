"""The processes of a run: how they find each other, and what they tell each other outside compiled
code. Trivial with one process.

JAX's own runtime joins them: every process runs the same command, and the first one coordinates.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def join(
    cluster: str = "auto",
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
) -> None:
    """Joins the other processes of a run; to be called before anything asks for devices.

    Args:
      cluster: "auto" joins if the three that follow are given or a launcher started more than one
        process (`launched_together`); "join" leaves finding them to JAX in any case, as TPU pods
        need where only the metadata server knows the others; "off" runs alone.
      coordinator: host:port of process 0; with the next two, no launcher is asked.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout_seconds: how long to wait for the others.

    Raises:
      ValueError: if the three do not fit together, or come with cluster="off".
      RuntimeError: if the others cannot be found, or do not answer in time.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    explicit = _check_explicit(given, cluster)
    if cluster == "off" or not (explicit or cluster == "join" or launched_together(os.environ)):
        return
    # Given all three, JAX must not ask a launcher which device of the machine is this process's
    method = {"cluster_detection_method": "deactivate"} if explicit else {}
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=timeout_seconds, **method
        )
    except (ValueError, RuntimeError) as error:
        advice = (
            f"is process 0 running, and can {coordinator} be reached from here?"
            if explicit
            else "give --coordinator host:port, --num_processes and --process_id instead."
        )
        raise RuntimeError(
            f"the processes of this run did not find each other; {advice} {error}"
        ) from error


def _check_explicit(given: Mapping[str, Any], cluster: str) -> bool:
    """Tells whether coordinator, count and index are given; all of them or none."""
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return False
    if missing:
        raise ValueError(f"--{missing[0]} is missing; a run of several processes needs all three.")
    if cluster == "off":
        raise ValueError("--cluster off runs alone; leave --coordinator out.")
    if ":" not in given["coordinator"]:
        raise ValueError(f"--coordinator {given['coordinator']} has no port; use host:port.")
    if not 0 <= given["process_id"] < given["num_processes"]:
        raise ValueError(
            f"--process_id {given['process_id']} must lie in 0 .. {given['num_processes'] - 1}, "
            "which --num_processes allows."
        )
    return True


def launched_together(environment: Mapping[str, str]) -> bool:
    """Tells whether a launcher that JAX knows started this process as one of several.

    Read are the variables of SLURM's srun, of Open MPI, and of TPUs on Kubernetes, which name each
    process's place (`jax.distributed.initialize` reads the rest of them).
    """
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        return int(environment.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_SIZE"]) > 1
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def first_does(action: Callable[[], None]) -> None:
    """Lets the first process act, the others wait; what it raises is raised by all.

    Raises:
      ValueError: of the same words, on the others.
    """
    problem: Exception | None = None
    if jax.process_index() == 0:
        try:
            action()
        except Exception as error:
            problem = error
    told = agree("" if problem is None else str(problem))
    if problem is not None:
        raise problem
    if told:
        raise ValueError(told)


def whole(tree: Any) -> Any:
    """Collects arrays that lie in shards, perhaps on other processes' devices, as numpy arrays.

    Every process must call it, and gets all of them.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def collect(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(collect, tree)


def agree(text: str) -> str:
    """Gives every process the text of the first one."""
    if jax.process_count() == 1:
        return text
    buffer = np.zeros(1024, np.uint8)
    data = np.frombuffer(text.encode()[:1024], np.uint8)
    buffer[: data.size] = data
    return (
        bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b"\0").decode(errors="replace")
    )


def gather(state: Any) -> list[str]:
    """Collects the iterator states of all processes as JSON texts."""
    text = json.dumps(state)
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([data.size]))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[: int(n)]).decode() for row, n in zip(rows, lengths.reshape(-1), strict=True)]


def own(states: list[str]) -> Any:
    """Picks this process's state of those `gather` collected; any will do if all are the same.

    Raises:
      ValueError: if other processes gathered them, and they differ.
    """
    if len(states) == jax.process_count():
        return json.loads(states[jax.process_index()])
    if len(set(states)) == 1:
        return json.loads(states[0])
    raise ValueError(
        f"its data was read by {len(states)} processes, each at a place of its own; "
        f"there are {jax.process_count()} now."
    )
