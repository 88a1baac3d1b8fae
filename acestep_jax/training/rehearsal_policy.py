"""Reinforcement learning before it begins: rollout, reward and update compiled from shapes alone.

    python -m train.grpo_planner --config configs/planner_1p7b/grpo.py --dry_run --devices 8

Prints the table of `rehearsal.py`. A loop whose length depends on what is drawn counts once in
operations and bytes received: a planner's rollout shows those of one token.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from acestep_jax.ops import backends
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import rehearsal
from acestep_jax.training.rehearsal import Stage
from acestep_jax.training.state import TrainState


class Described(NamedTuple):
    """A run as shapes, and its steps.

    Attributes:
      state, frozen, batch: what steps take.
      frozen_places: mesh -> where `frozen` lives.
      lead: one array of the batch.
      make_steps: places of the state -> roll_out, judge, update and advance.
    """

    state: TrainState
    frozen: Any
    batch: Any
    frozen_places: Callable[[jax.sharding.Mesh], Any]
    lead: Callable[[Any], Any]
    make_steps: Callable[[TrainState], Any]


def rehearse(
    describe: Callable[[Any], Described], config: Any, devices: Sequence[jax.Device] | None = None
) -> list[Stage]:
    """Prints what a run will take, and gives its steps.

    Args:
      describe: a configuration -> its run; no parameter is made and no weights are read.
      config: the run.
      devices: to compile for, those of this machine by default.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=""))
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    run = describe(config)
    with jax.set_mesh(mesh), backends.assume(mesh.devices.flat[0].platform):
        places = mesh_lib.state_shardings(run.state, mesh)
        state = rehearsal.placed(run.state, places)
        frozen = rehearsal.placed(run.frozen, run.frozen_places(mesh))
        shared = mesh_lib.batch_sharding(mesh)
        batch = rehearsal.placed(run.batch, jax.tree.map(lambda _: shared, run.batch))
        stages = compile_steps(run, run.make_steps(places), state, frozen, batch)
    kept = {
        "trained parameters": state.params,
        "averages": state.average,
        "optimizer": state.optimizer,
        "frozen": frozen,
    }
    sizes = {name: rehearsal.local_bytes(tree) for name, tree in kept.items()}
    rehearsal.report(config.name, mesh, sizes, stages)
    return stages


def compile_steps(
    run: Described, steps: Any, state: TrainState, frozen: Any, batch: Any
) -> list[Stage]:
    """Compiles rollout, reward and update; each takes what those before it gave."""
    stages: list[Stage] = []
    compile_one = functools.partial(
        rehearsal.compile_step, params=(state.params, frozen), batch=run.lead(batch)
    )

    def go(name: str, *arguments: Any) -> Any:
        stage, result = compile_one(name, getattr(steps, name), arguments)
        stages.append(stage)
        return result

    songs = go("roll_out", state, frozen, batch)
    learned, _ = go("judge", state, frozen, batch, songs)
    go("update", state, frozen, batch, songs, learned)
    return stages
