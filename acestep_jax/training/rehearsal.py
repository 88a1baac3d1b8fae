"""A distillation before it begins: every step compiled for its mesh, from shapes alone.

    python -m train.distill --config configs/turbo/distill.py --dry_run --devices 8
    python -m train.distill --config configs/turbo/distill.py --dry_run --topology h100:8

On simulated devices or for accelerators that are not there (topologies.py), without a parameter
made or a file read. Printed are the bytes that each device will hold, computed beforehand
(parameters, optimizer, frozen networks, activations); then, step by step, what the compiler says it
will take, the floating-point operations of one call, the bytes that each device receives from
others, and how often the DiT runs. XLA computes 16-bit floats as float32 on processors: there its
figure is that of a run in float32.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from acestep_jax.data.batch import Batch
from acestep_jax.nn.config import ModelConfig
from acestep_jax.ops import backends
from acestep_jax.training import collectives, flops, footprint, models
from acestep_jax.training import game as game_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Data
from acestep_jax.training.game import Game
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Params

_GIB = 2**30
_FORWARD = re.compile(r'op_name="(?!.*transpose\()[^"]*/proj_out/')


class Shapes(NamedTuple):
    """A run as shapes: its game, trained state, frozen parameters, and a batch."""

    game: Game
    state: TrainState
    frozen: Params
    batch: Batch


class Stage(NamedTuple):
    """What one compiled step takes, per device and call.

    Attributes:
      name: of the step.
      computed: bytes, added up from shapes beforehand.
      found: bytes by XLA's own analysis.
      operations: floating-point operations over all devices.
      received: bytes from other devices.
      forwards: how often a DiT runs forwards.
      seconds: of lowering and compiling.
    """

    name: str
    computed: int
    found: int
    operations: float
    received: float
    forwards: int
    seconds: float


def batch_shapes(data: Data, sizes: ModelConfig) -> Batch:
    """Gives the shapes of a run's batches."""

    def shape(dtype: type, *rest: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((data.batch_size, *rest), dtype)

    channels = sizes.audio_acoustic_hidden_dim
    return Batch(
        latents=shape(np.float32, data.num_frames, channels),
        frame_mask=shape(bool, data.num_frames),
        source_latents=shape(np.float32, data.num_frames, channels),
        edit_mask=shape(np.float32, data.num_frames),
        text_tokens=shape(np.int32, data.text_tokens),
        text_mask=shape(bool, data.text_tokens),
        lyric_tokens=shape(np.int32, data.lyric_tokens),
        lyric_mask=shape(bool, data.lyric_tokens),
        timbre_latents=shape(np.float32, data.timbre_frames, sizes.timbre_hidden_dim),
        is_cover=shape(bool),
    )


def shapes(config: Distill) -> Shapes:
    """Builds a run from its presets, without making any parameter."""
    networks = models.build(config.model)
    game = game_lib.make_game(config, networks)
    separate = functools.partial(game_lib.separate, config)
    frozen = jax.eval_shape(separate, models.shapes(networks))
    state = jax.eval_shape(functools.partial(game_lib.make_state, game), frozen["teacher"])
    return Shapes(game, state, frozen, batch_shapes(config.data, networks.config))


def place(run: Shapes, mesh: jax.sharding.Mesh) -> Shapes:
    """Says where on the mesh everything lives."""
    shared = mesh_lib.batch_sharding(mesh)
    return run._replace(
        state=placed(run.state, mesh_lib.state_shardings(run.state, mesh)),
        frozen=placed(run.frozen, mesh_lib.parameter_shardings(run.frozen, mesh)),
        batch=placed(run.batch, jax.tree.map(lambda _: shared, run.batch)),
    )


def placed(tree: Any, places: Any) -> Any:
    """Gives the shapes of a tree with their places."""

    def one(leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(one, tree, places)


def resident(run: Shapes) -> dict[str, int]:
    """Adds up the bytes that each device keeps through the run, by what they are for."""
    state, frozen = run.state, run.frozen
    parts = {
        "trained parameters": state.params,
        "averages": state.average,
        "optimizer": state.optimizer,
        "teacher": frozen["teacher"],
        "encoders": frozen["encoders"],
    }
    return {name: local_bytes(tree) for name, tree in parts.items()}


def local_bytes(tree: Any) -> int:
    """Adds up what a tree of placed shapes takes on one device, keys of random numbers aside."""
    leaves = [
        x for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]
    return mesh_lib.sharded_bytes(leaves, [leaf.sharding for leaf in leaves])[1]


def compile_steps(steps: Any, run: Shapes, mesh: jax.sharding.Mesh) -> list[Stage]:
    """Compiles every step of an iteration; each takes what those before it gave.

    Args:
      steps: `train.distill.Steps`, made for the mesh that is set.
      run: placed shapes.
      mesh: where they are placed.
    """
    stages: list[Stage] = []
    index = jax.ShapeDtypeStruct((), np.int32, sharding=mesh_lib.replicated(mesh))

    def go(name: str, *arguments: Any) -> Any:
        trained = (run.state.params, run.frozen)
        stage, result = compile_step(
            name, getattr(steps, name), arguments, trained, run.batch.latents
        )
        stages.append(stage)
        return result

    scene = go("encode", run.frozen, run.batch)
    if run.game.config.warmup.steps:
        pair = go("end_points", run.state, run.frozen, scene)
        go("regress", run.state, run.frozen, scene, pair, index)
    rollout = go("simulate", run.state, run.frozen, scene)
    if run.game.adversary is not None:
        go("discriminator", run.state, run.frozen, scene, rollout, index)
    go("fake", run.state, run.frozen, scene, rollout, index)
    go("student", run.state, run.frozen, scene, rollout)
    return stages


def compile_step(
    name: str, step: Any, arguments: tuple[Any, ...], params: Any, batch: jax.ShapeDtypeStruct
) -> tuple[Stage, Any]:
    """Compiles a step from placed shapes.

    Args:
      name: of the step.
      step: a jitted function.
      arguments: placed shapes.
      params: placed shapes of every parameter, whose shares gradients have.
      batch: one array of the batch.

    Returns:
      What it takes, and its results as placed shapes.
    """
    print(f"compiling {name} ...", flush=True)  # minutes, for a large model
    begin = time.monotonic()
    traced = step.trace(*arguments)
    computed = _computed(traced.jaxpr.jaxpr, arguments, params, batch)
    program = traced.lower().compile()
    text, memory = program.as_text(), program.memory_analysis()
    found = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    found += memory.output_size_in_bytes - memory.alias_size_in_bytes
    stage = Stage(
        name,
        computed,
        found,
        flops.count(step, *arguments),
        sum(c.received for c in collectives.read(text)),
        forwards(text),
        time.monotonic() - begin,
    )
    return stage, placed(traced.out_info, program.output_shardings)


def _computed(
    jaxpr: Any, arguments: tuple[Any, ...], params: Any, batch: jax.ShapeDtypeStruct
) -> int:
    """Adds the arguments that a step reads to the most that is alive besides."""
    leaves = jax.tree.leaves(arguments)
    read = {var for eqn in jaxpr.eqns for var in eqn.invars if not hasattr(var, "val")}
    read |= {var for var in jaxpr.outvars if not hasattr(var, "val")}
    used = [leaf for leaf, var in zip(leaves, jaxpr.invars, strict=True) if var in read]
    local = batch.sharding.shard_shape(batch.shape)[0]
    shares = footprint.Shares(
        batch.shape[0],
        batch.shape[0] // local,
        footprint.parameter_shares(params, jax.tree.map(lambda x: x.sharding, params)),
        layouts=2 if backends.current() == "gpu" else 1,
    )
    return local_bytes(used) + footprint.peak(jaxpr, shares)


def forwards(text: str) -> int:
    """Counts in a compiled program how often a DiT's last product runs on its way forwards.

    Equal calls are one by then, as the compiler finds common subexpressions, so that a number below
    the networks that were called means that one was called twice. The first product will not do:
    with and without a condition it is the same.
    """
    products = re.compile(r" (convolution|dot|custom-call)\(")
    return sum(bool(products.search(line) and _FORWARD.search(line)) for line in text.splitlines())


def rehearse(
    make_steps: Callable[..., Any], config: Distill, devices: Sequence[jax.Device] | None = None
) -> list[Stage]:
    """Prints what a run will take, and gives its steps.

    Args:
      make_steps: (game, places) -> `train.distill.Steps`.
      config: the run; weights are not read, its presets give the sizes.
      devices: to compile for, those of this machine by default.
    """
    # not the attention of this processor, which takes one head of one song after another
    model = dataclasses.replace(config.model, weights="", attention="portable")
    config = dataclasses.replace(config, model=model)
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    named = shapes(config)
    with jax.set_mesh(mesh), backends.assume(mesh.devices.flat[0].platform):
        run = place(named, mesh)
        places = jax.tree.map(lambda x: x.sharding, run.state)
        stages = compile_steps(make_steps(run.game, places), run, mesh)
    report(config.name, mesh, resident(run), stages)
    return stages


def report(
    name: str, mesh: jax.sharding.Mesh, kept: Mapping[str, int], stages: Sequence[Stage]
) -> None:
    """Prints what stays on each device, and what every step takes."""
    print(f"{name} on {mesh.size} devices, {_mesh_text(mesh)}; GiB a device:")
    for part, size in {**kept, "all that stays": sum(kept.values())}.items():
        print(f"  {part:20} {size / _GIB:10.4f}")
    print(
        f"  {'step':12} {'computed':>10} {'XLA':>10} {'ratio':>6} {'TFLOP':>10} "
        f"{'GiB received':>13} {'DiTs':>5} {'compiled in':>11}"
    )
    for s in stages:
        print(
            f"  {s.name:12} {s.computed / _GIB:10.4f} {s.found / _GIB:10.4f} "
            f"{s.computed / s.found:6.2f} {s.operations / 1e12:10.4f} {s.received / _GIB:13.4f} "
            f"{s.forwards:5} {s.seconds:9.0f} s"
        )


def _mesh_text(mesh: jax.sharding.Mesh) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "alone"
