"""Does a run mean the same on any mesh, and on several processes: the same losses, step by step?

    python -m experiments.meshes
    python -m experiments.meshes --trainers vae --meshes data=8 data=2,fsdp=2,tensor=2
    python -m experiments.meshes --processes 2

Every trainer's quick form runs on one device and on each mesh of eight simulated ones, with the
same batches; printed is the largest relative difference of any loss at any step, and the command
fails if one exceeds --tolerance. Sums are taken in another order on another mesh, and Adam's first
steps have one size whatever the gradient: an entry that is all rounding may turn its sign, and a
few steps later losses differ by more than float32 alone would make them.

With --processes the run is one of so many processes on this machine, a device each, that find one
another as those of several machines do, and share parameters and batches. One of them is killed at
a random step, which ends them all; started again they go on to the end.
"""

import argparse
import pathlib
import random
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from acestep_jax.training import metrics
from experiments import lives
from experiments.lives import Life, Trainer

MESHES = (
    "data=2",
    "fsdp=4",
    "data=8",
    "fsdp=8",
    "data=2,fsdp=2,tensor=2",
    "fsdp=2,sequence=4",
    "fsdp=2,tensor=2,sequence=2",
)
BATCH_SIZE = 8  # which all of them divide
NUM_STEPS = 6

Losses = dict[str, list[tuple[int, float]]]


def settings(trainer: Trainer, mesh: str) -> list[str]:
    """Gives the arguments for a mesh such as "data=2,fsdp=4"; "" is one device."""
    changes = [f"data.batch_size={BATCH_SIZE}"]
    changes += [f"prior_items={BATCH_SIZE}"] if trainer.name == "lora" else []
    changes += [f"mesh.{size}" for size in mesh.split(",") if size]
    return [part for change in changes for part in ("--set", change)]


def run(trainer: Trainer, mesh: str, folder: pathlib.Path) -> Losses:
    """Runs a trainer on a mesh and reads its losses.

    Raises:
      RuntimeError: if it does not run.
    """
    workdir = folder / f"{trainer.name}-{mesh or 'one'}"
    life = Life(trainer, workdir, settings(trainer, mesh), 8)
    return read_to_end(trainer, workdir, [life])


def read_to_end(trainer: Trainer, workdir: pathlib.Path, running: Sequence[Life]) -> Losses:
    """Waits for the last checkpoint of a run and reads its losses; what follows is cut off.

    Raises:
      RuntimeError: if it does not come to its end; it says what was printed.
    """
    done = running[0].wait_for(lambda: lives.is_saved(workdir, trainer.num_steps))
    for life in running:
        life.end(signal.SIGKILL)
    if not done:
        raise RuntimeError(f"{workdir.name} broke:\n{running[0].last_words()}")
    series = metrics.read_metrics(workdir)
    return {name: values for name, values in series.items() if name.startswith("loss/")}


def run_together(trainer: Trainer, count: int, folder: pathlib.Path, seed: int = 0) -> Losses:
    """Runs a trainer on several processes, of which one is killed on the way, and reads its losses.

    Raises:
      RuntimeError: if the processes do not run, or begin anew where they should go on.
    """
    rng = random.Random(f"{trainer.name}-{seed}")
    workdir, stop = folder / f"{trainer.name}-{count}", rng.randint(1, trainer.num_steps - 2)
    running = start_together(trainer, count, workdir)
    if not running[0].wait_for(lambda: lives.newest(workdir) >= stop):
        raise RuntimeError(f"{workdir.name} broke:\n{running[0].last_words()}")
    victim = rng.randrange(count)
    for life in [running[victim], *running]:  # without one, the others wait for ever
        life.end(signal.SIGKILL)
    kept = lives.newest(workdir)
    losses = read_to_end(trainer, workdir, start_together(trainer, count, workdir))
    resumed = re.findall(r"Resuming after step (\d+)", running[0].log.read_text())
    if not resumed or int(resumed[-1]) != kept:
        raise RuntimeError(f"{workdir.name} was to resume after step {kept}, not {resumed or 0}.")
    return losses


def start_together(trainer: Trainer, count: int, workdir: pathlib.Path) -> list[Life]:
    """Starts the processes of a run, with parameters in as many shards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (*settings(trainer, f"fsdp={count}"), "--coordinator", f"127.0.0.1:{port}")
    places = [("--num_processes", str(count), "--process_id", str(i)) for i in range(count)]
    return [Life(trainer, workdir, (*common, *place), 1) for place in places]


def largest_difference(found: Losses, expected: Losses) -> float:
    """Gives the largest relative difference of any loss at any step.

    Raises:
      ValueError: if they are not of the same losses and steps.
    """
    worst = 0.0
    for name, values in expected.items():
        steps, wanted = zip(*values, strict=True)
        seen = dict(found.get(name, []))
        if tuple(seen) != steps:
            raise ValueError(f"{name} was logged at steps {tuple(seen)}, expected {steps}.")
        numbers, wanted = np.array(list(seen.values())), np.array(wanted)
        worst = max(worst, float(np.max(np.abs(numbers - wanted) / np.maximum(abs(wanted), 1e-6))))
    return worst


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a trainer and mesh; exits with 1 if one differs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--trainers", nargs="*", default=[], help="scripts of train/; all of them")
    add("--meshes", nargs="*", default=MESHES, help="such as data=2,tensor=4")
    add("--processes", type=int, default=0, help="run in so many processes, not on meshes")
    add("--tolerance", type=float, default=1e-3, help="largest difference allowed")
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for trainer in lives.discover(options.trainers, NUM_STEPS):
            expected = run(trainer, "", folder)
            for mesh in [] if options.processes else options.meshes:
                worst = largest_difference(run(trainer, mesh, folder), expected)
                failed += worst > options.tolerance
                print(f"{trainer.name}: {mesh}: {worst:.1e}", flush=True)
            if options.processes:
                found = run_together(trainer, options.processes, folder)
                worst = largest_difference(found, expected)
                failed += worst > options.tolerance
                print(f"{trainer.name}: {options.processes} processes: {worst:.1e}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
