"""Do average velocities make few steps enough, before any distillation?

Two runs of `train/dit.py` begin at the shipped DiT and see the same songs: one goes on with the
velocity alone, in the other half of the items span an interval (`mean_flow.share`, the released
`data_proportion`). Both are then sampled in a few unguided steps, the second by its average
velocity (`ops/meanflow.py`), and held against

    law    songs of the first run in 50 steps at shift 1: where its own field leads
    songs  the held-out songs that the prompts describe

by the energy distance of latent windows (`distill/measures.py`), with intervals over prompts.
Expected: average velocities win at one and two steps, and lose where steps are many enough.

    python -m experiments.mean_flow [--quick] [--seed 0]          (after `make data`)

A stopped run goes on where it was. A line a row; the last line is one JSON object.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import compilation
from acestep_jax.ops import meanflow, timesteps
from acestep_jax.sampling import flow
from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import MeanFlow, TrainDiT
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array, Params
from experiments import runs
from experiments.distill import evaluate, measures, players
from train import dit

ARMS = {"velocity": MeanFlow(), "average": MeanFlow(share=0.5)}
STEPS, SHIFTS = (1, 2, 4, 8), (1.0, 3.0)


def plan(arm: str, seed: int, options: argparse.Namespace) -> TrainDiT:
    """Gives the run of one arm."""
    steps = options.train_steps
    return TrainDiT(
        name=f"mean_flow_{arm}",
        workdir=str(options.workdir / f"{arm}_{steps}_{seed}"),
        seed=seed,
        num_steps=steps,
        model=Model(weights=players.TEACHER, text_weights=players.TEXT_ENCODER, remat=True),
        trained=("^dit$",),
        mean_flow=ARMS[arm],
        optimizer=Optimizer(
            peak_lr=3e-4, warmup_steps=min(20, steps), schedule="cosine", ema_decay=0.98
        ),
        data=Data(shards=options.shards, batch_size=16, num_frames=128, start_at="chords"),
        eval_batches=1,
        log_every=10,
        save_every=50,
    )


def train(config: TrainDiT) -> tuple[Params, float]:
    """Runs an arm to its end, or what is left of it; gives its DiT and processor seconds."""
    seconds = runs.run_once(dit.main, config)
    return players.load_student(f"{config.workdir}/export/model"), seconds


def average_sampler(config: TrainDiT, stage: players.Stage) -> Callable[..., Array]:
    """Compiles (params, scene, noise, times) -> latents, along average velocities."""
    setting = dit.Setting(config, stage.networks, None)

    @jax.jit
    def run(params: Params, scene: Scene, noise: Array, times: Array) -> Array:
        average = dit.average_field(setting, params, scene)
        whole = lambda t: jnp.broadcast_to(t, noise.shape[:1])  # noqa: E731
        return flow.integrate(
            lambda x_t, t, r: average(x_t, whole(t), whole(r)), noise, times, meanflow.step
        )

    return run


def sample_average(
    stage: players.Stage,
    run: Callable[..., Array],
    params: Params,
    steps: int,
    shift: float,
    seed: int,
) -> np.ndarray:
    """Samples every prompt from the noise that `players.sample` gives it: [N, T, C]."""
    songs, first, times = [], seed * players.SEED, timesteps.time_grid(steps, shift)
    for scene in stage.scenes:
        items, frames, channels = scene.real.shape
        noise = flow.initial_noise(flow.item_keys(first + jnp.arange(items)), frames, channels)
        songs.append(np.asarray(run(params, scene, noise, times)))
        first += items
    return np.concatenate(songs)


def compare(
    stage: players.Stage, config: TrainDiT, arms: dict[str, Params], steps: int
) -> Iterator[dict[str, Any]]:
    """Measures the start and both arms at every number of steps; a row each.

    Args:
      stage: the prompts.
      config: of the run by average velocities.
      arms: the DiTs that were trained.
      steps: of the reference.
    """
    law = players.sample(stage, arms["velocity"], steps, 1.0, seed=0)
    songs = np.concatenate([np.asarray(scene.real) for scene in stage.scenes])
    known = {
        name: (reference, measures.song_distances(reference, reference))
        for name, reference in {"law": law, "songs": songs}.items()
    }

    def row(name: str, count: int, shift: float, made: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {"system": name, "steps": count, "shift": shift}
        for reference, (theirs, within) in known.items():
            pairs = measures.distances(made, theirs, within)
            interval = measures.bootstrap(lambda w, p=pairs: measures.energy(p, w), len(made))
            found[reference] = evaluate.rounded(interval)
        return found

    run = average_sampler(config, stage)
    again = players.sample(stage, arms["velocity"], steps, 1.0, seed=1)
    yield row("velocity, other noise", steps, 1.0, again)
    for count in STEPS:
        for shift in SHIFTS if count > 1 else SHIFTS[:1]:  # one step knows no shift
            for name, params in {"start": stage.teacher, "velocity": arms["velocity"]}.items():
                made = players.sample(stage, params, count, shift, seed=2)
                yield row(name, count, shift, made)
            made = sample_average(stage, run, arms["average"], count, shift, 2)
            yield row("average", count, shift, made)
    made = players.sample(stage, arms["average"], steps, 1.0, seed=2)
    yield row("average, its velocity at r = t", steps, 1.0, made)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains both arms, prints a line a row, and one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="two steps a run, few prompts, in minutes")
    add("--seed", type=int, default=0)
    add("--train_steps", type=int, default=400)
    add("--prompts", type=int, default=128)
    add("--reference_steps", type=int, default=50)
    add("--shards", default="data/shards/own", help="to train on; + is the embedded")
    add("--workdir", type=pathlib.Path, default=pathlib.Path("runs/mean_flow"))
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(train_steps=2, prompts=8, reference_steps=4, shards="+")
    compilation.enable_cache()
    plans = {arm: plan(arm, options.seed, options) for arm in ARMS}
    trained = {arm: train(config) for arm, config in plans.items()}
    stage = players.open_stage(players.TEACHER, options.prompts, min(16, options.prompts))
    arms, rows = {arm: params for arm, (params, _) in trained.items()}, []
    for row in compare(stage, plans["average"], arms, options.reference_steps):
        rows.append(row)
        print(json.dumps(row), flush=True)
    seconds = {arm: seconds for arm, (_, seconds) in trained.items()}
    found = {"prompts": options.prompts, "processor_seconds": seconds, "rows": rows}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
