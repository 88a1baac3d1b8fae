"""Trains low-rank adapters: from a handful of songs to their style, the base left as it is.

    W x becomes W x + (alpha / r) B A x  in the attention of every layer of the DiT         (1)
    loss = mean (v_AB(x_t, t, condition, context) - (noise - data))^2  over the clips' own frames

(1) is Hu et al. 2021, arXiv:2106.09685. B starts at zero, so that training starts at the base; only
A and B have gradients. Everything else is the base's own training (train/dit.py): its law of times,
its dropped conditions, its losses. For a model distilled to few steps the law is `turbo`, the times
that it is sampled at.

Differences from the release's trainer: padded frames stay out of the loss; prompts are those of
inference where the release shows raw lyrics and an empty timbre reference; its cosine restarts,
here it falls once.

A step costs a forward and a backward of the whole DiT, and the memory of a frozen one; a checkpoint
holds adapters alone. At the end they are saved for PEFT, the release's software and diffusers
(`export/official`, `export/diffusers`), and a report plays base and adapter side by side.

    python -m acestep_jax.data.prepare --source my_songs --out data/shards/style
    python -m train.lora --config configs/nano/lora.py
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn import lora
from acestep_jax.nn.config import ModelConfig
from acestep_jax.training import cli, compare, listen, loop, models, processes, report
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training.recipes.lora import TrainLoRA
from acestep_jax.typing import Array, Key, Params
from acestep_jax.weights import adapters as files
from train import dit
from train.dit import Metrics, Setting

# The loss -----------------------------------------------------------------------------------------


def make_setting(config: TrainLoRA, loaded: models.Loaded, silence: Array | None) -> Setting:
    """Gathers what `train.dit` computes with; the DiT takes adapters beside its parameters."""
    networks = dataclasses.replace(loaded.networks, dit=lora.Adapted(loaded.networks.dit))
    return Setting(config, networks, silence if config.covers else None)


def adapted(
    config: TrainLoRA, base: Params, adapters: Params, dropout_key: Key | None = None
) -> Params:
    """Puts adapters beside the DiT's parameters: {"dit": ...}, to stand before the other parts.

    Args:
      config: for strength and dropout.
      base: the DiT's parameters.
      adapters: the trained tree.
      dropout_key: in training.
    """
    spec = config.adapter
    variables = lora.collection(adapters, spec.scale, spec.dropout)
    return {"dit": lora.WithAdapters(base, variables, dropout_key)}


def adapter_loss(
    adapters: Params, setting: Setting, frozen: Params, batch: Batch, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates the loss of the base with adapters; arguments as those of `dit.flow_loss`."""
    flow_key, dropout_key = jax.random.split(key)
    trained = adapted(setting.config, frozen["dit"], adapters, dropout_key)
    return dit.flow_loss(trained, setting, frozen, batch, flow_key)


# What is measured ---------------------------------------------------------------------------------


def make_measure(
    setting: Setting, frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives adapters ({}: the base alone) -> errors on the held-out songs and on the control.

    Both come from the validation split; noise and times are the same for whatever is measured. With
    `eval_batches` 0 nothing is.
    """
    config, evaluate = setting.config, dit.make_evaluate(setting)
    sets = {"eval": config.data.shards}
    sets |= {"control": config.control} if config.control else {}

    def measure(adapters: Params) -> dict[str, float]:
        trained = adapted(config, frozen["dit"], adapters)
        numbers: dict[str, float] = {}
        for prefix, shards in sets.items() if config.eval_batches else ():
            data = dataclasses.replace(config.data, shards=shards)
            fresh = models.open_batches(dataclasses.replace(config, data=data), "validation")
            placed = (mesh_lib.place_batch(batch, mesh) for batch in fresh)
            numbers |= dit.held_out_error(
                evaluate, trained, frozen, placed, config.eval_batches, prefix
            )
        return numbers

    return measure


def check_held_out(config: TrainLoRA) -> None:
    """Refuses, before anything is trained, songs of which none are held out.

    Raises:
      FileNotFoundError: it says what to do.
    """
    if not (config.eval_batches or config.report):
        return
    try:
        models.open_batches(config, "validation")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} To measure a style, hold a song of it out (split=validation in its labels); "
            "to train without measuring, set eval_batches=0 and report=false."
        ) from error


# The run, in the order it happens -----------------------------------------------------------------


def main(config: TrainLoRA) -> None:
    """Trains, measures, saves the adapters, and plays them."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed)
    frozen = models.cast(loaded.params, config.model.frozen_dtype)
    batches = models.open_batches(dataclasses.replace(config, data=config.mixture()), "train")
    check_held_out(config)
    silence = loaded.silence_latent
    silence = jnp.asarray(batches.silence_latent) if silence is None else silence
    setting = make_setting(config, loaded, silence)
    init_adapters = jax.jit(functools.partial(lora.init, spec=config.adapter))
    fresh = init_adapters(jax.random.key(config.seed), loaded.params["dit"])

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place(frozen, mesh_lib.parameter_shardings(frozen, mesh))
        init = functools.partial(dit.make_state, config, fresh)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches)
        places = shardings(jax.eval_shape(init))
        train_step = run.counted(dit.make_train_step(setting, fresh, places, adapter_loss))
        measure = make_measure(setting, frozen, mesh)
        listener = listen.open_listener(config, setting.networks, mesh)

        def hear(adapters: Params) -> dict[str, np.ndarray]:
            return listener(frozen | adapted(config, frozen["dit"], adapters))

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = train_step(state, frozen, batch)
            run.end_step(step, state, metrics, batches)
            run.listen(step + 1, hear, state.best("model"), at_end=not config.report)
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, measure(state.best("model")))

        adapters = state.best("model")
        folder = save(config, setting.networks.config, adapters, run.workdir)
        logging.warning("Adapters saved in %s.", folder)
        before, after = measure({}), measure(adapters)
        run.metrics.note(config.num_steps, after | {f"base/{k}": v for k, v in before.items()})
        _say(before, after)
        if config.report:
            sounds = {"base": hear({}), "adapter": hear(adapters)}
            if jax.process_index() == 0:
                path = write_report(config, run.workdir, sounds, before, after)
                logging.warning("Listen to base and adapter in %s.", path)


def save(
    config: TrainLoRA, sizes: ModelConfig, adapters: Params, workdir: pathlib.Path
) -> pathlib.Path:
    """Saves the adapters in every naming under `export`; gives that folder."""
    adapter = files.Adapter(config.adapter, processes.whole(adapters))
    for layout in files.LAYOUTS if jax.process_index() == 0 else ():
        files.save_adapter(workdir / "export" / layout, adapter, sizes, layout=layout)
    return workdir / "export"


def _say(before: dict[str, float], after: dict[str, float]) -> None:
    """Says in one line each what became of the songs of the style and of the others."""
    for prefix, words in (("eval", "songs of the style"), ("control", "other songs")):
        name = f"{prefix}/error"
        if name in after:
            change = 100 * (after[name] / before[name] - 1)
            logging.warning("Held-out error, %s: %.4f (%+.2f %%).", words, after[name], change)


def write_report(
    config: TrainLoRA,
    workdir: pathlib.Path,
    sounds: Mapping[str, Mapping[str, np.ndarray]],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> pathlib.Path:
    """Writes `report.html`: the same held-out prompts and noise with and without the adapters.

    Args:
      config: the run.
      workdir: its folder, with its metrics.
      sounds: {system: {song: audio [W, 2]}}; without an autoencoder there are none.
      before, after: measured errors; empty if none were.
    """
    pieces = []
    if all(sounds.values()):
        batch = next(models.open_batches(config, "validation"))
        prompts = compare.captions(batch, models.tokenizer_folder(config.model))
        columns = [list(songs.values()) for songs in sounds.values()]
        grid = {(i, j): x for j, column in enumerate(columns) for i, x in enumerate(column)}
        rows = prompts[: len(columns[0])]
        players = report.players(rows, list(sounds), grid, caption=_SOUNDS)
        pieces.append(report.section("Listen", players))
    if after:
        rows = [[name, before[name], after[name]] for name in after]
        table = report.table(["", *sounds], rows, caption=_ERRORS)
        pieces.append(report.section("Held-out error of the velocity", table))
    series = metrics_lib.read_metrics(workdir)
    shown = {name: points for name, points in series.items() if not name.startswith("time/")}
    pieces.append(report.section("Training", report.charts(shown)))
    spec = config.adapter
    lead = f"Rank {spec.rank} in {', '.join(spec.targets)}, after {config.num_steps} steps."
    report.write(workdir / "report.html", f"Adapters: {config.name}", *pieces, lead=lead)
    return workdir / "report.html"


_SOUNDS = "A row has one prompt and one noise."
_ERRORS = (
    "Mean squared error on songs that were not trained on: eval, of the style; control, others. "
    "Averaged over ten levels of t, and at each; the same noise before and after."
)


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/lora.py")
