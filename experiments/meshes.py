"""Does a run mean the same on any mesh: the same losses, step by step?

    python -m experiments.meshes
    python -m experiments.meshes --trainers vae --meshes data=8 data=2,fsdp=2,tensor=2

Every trainer's quick form runs on one device and on each mesh of eight simulated ones, with the
same batches; printed is the largest relative difference of any loss at any step, and the command
fails if one exceeds --tolerance. Sums are taken in another order on another mesh, and Adam's first
steps have one size whatever the gradient: an entry that is all rounding may turn its sign, and a
few steps later losses differ by more than float32 alone would make them.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from acestep_jax.training import metrics
from experiments import faults

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

Losses = dict[str, list[tuple[int, float]]]


def run(trainer: faults.Trainer, mesh: str, folder: pathlib.Path) -> Losses:
    """Runs a trainer on a mesh and reads its losses.

    Raises:
      RuntimeError: if it does not run.
    """
    axes = [f"mesh.{size}" for size in mesh.split(",") if size]
    settings = (f"data.batch_size={BATCH_SIZE}", *axes)
    sets = [part for setting in settings for part in ("--set", setting)]
    workdir = folder / f"{trainer.name}-{mesh or 'one'}"
    program, *rest = trainer.command[:-1]
    devices = "--xla_force_host_platform_device_count=8"
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    found = subprocess.run(
        [program, *rest, *sets, "--workdir", str(workdir)],
        cwd=faults.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise RuntimeError(f"{trainer.name} on {mesh or 'one device'}:\n{found.stderr[-2000:]}")
    series = metrics.read_metrics(workdir)
    return {name: values for name, values in series.items() if name.startswith("loss/")}


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
    parser.add_argument("--trainers", nargs="*", default=[], help="scripts of train/; all of them")
    parser.add_argument("--meshes", nargs="*", default=MESHES, help="such as data=2,tensor=4")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference allowed")
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for trainer in faults.discover(options.trainers):
            expected = run(trainer, "", folder)
            for mesh in options.meshes:
                worst = largest_difference(run(trainer, mesh, folder), expected)
                failed += worst > options.tolerance
                print(f"{trainer.name}: {mesh}: {worst:.1e}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
