"""Trains low-rank adapters: from a handful of songs to their style, the base left as it is.

    W x becomes W x + (alpha / r) B A x  in the attention of every layer of the DiT         (1)
    loss = mean (v_AB(x_t, t, condition, context) - (noise - data))^2  over the clips' own frames

         + weight mean (v_AB(x_t, t, ...) - v_base(x_t, t, ...))^2  at other songs, if any (2)

(1) is Hu et al. 2021, arXiv:2106.09685. B starts at zero, so that training starts at the base; only
A and B have gradients. Everything else is the base's own training (train/dit.py): its law of times,
its dropped conditions, its losses. For a model distilled to few steps the law is `turbo`, the times
that it is sampled at.

A style spills over into other music. (2) holds it back: at the songs of `prior` the base itself is
the target, which is far less noisy than the songs are; and as the base is near its optimum there,
the error of such songs rises by about the mean of (2), which the log shows as `loss/prior`.

Differences from the release's trainer: padded frames stay out of the loss; prompts are those of
inference where the release shows raw lyrics and an empty timbre reference; its cosine restarts,
here it falls once.

A step costs a forward and a backward of the whole DiT, and the memory of a frozen one; a checkpoint
holds adapters alone. At the end they are saved for PEFT, the release's software and diffusers
(`export/official`, `export/diffusers`), and a report plays base and adapter side by side.

    python -m acestep_jax.data.prepare --source my_songs --out data/shards/style
    python -m train.lora --config configs/nano/lora.py
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn import lora
from acestep_jax.nn.config import ModelConfig
from acestep_jax.ops import flow, losses
from acestep_jax.training import cli, compare, listen, loop, models, processes, report
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training import scene as scene_lib
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


class Songs(NamedTuple):
    """The songs of a step: of the style, and others (None without a `prior`)."""

    style: Batch
    prior: Batch | None


def adapter_loss(
    config: TrainLoRA, adapters: Params, setting: Setting, frozen: Params, batch: Songs, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates the loss of the base with adapters; other arguments as of `dit.flow_loss`."""
    flow_key, prior_key, dropout_key = jax.random.split(key, 3)
    trained = adapted(config, frozen["dit"], adapters, dropout_key)
    loss, metrics = dit.flow_loss(trained, setting, frozen, batch.style, flow_key)
    if batch.prior is None:
        return loss, metrics
    pull = prior_loss(trained, setting, frozen, batch.prior, prior_key)
    return loss + config.prior_weight * pull, metrics | {"loss/prior": pull}


def prior_loss(trained: Params, setting: Setting, frozen: Params, batch: Batch, key: Key) -> Array:
    """Evaluates (2): how far the adapters move the velocity at songs that should stay."""
    config = setting.config
    time_key, noise_key, drop_key = jax.random.split(key, 3)
    scene = dit.encode(setting, frozen, batch)
    scene = dit.drop_conditions(drop_key, scene, config.condition_dropout)
    t, _ = dit.draw_times(setting, time_key, scene.real.shape[0])
    x_t = flow.interpolate(scene.real, jax.random.normal(noise_key, scene.real.shape), t)
    moved, base = (
        scene_lib.velocity(setting.networks, dit_params, scene, x_t, t)
        for dit_params in (trained["dit"], frozen["dit"])
    )
    mask = batch.frame_mask if config.masked_loss else None
    return losses.masked_mean(losses.squared_error(moved, jax.lax.stop_gradient(base)), mask)


# The songs ----------------------------------------------------------------------------------------


class SongBatches:
    """Iterates over `Songs`; the position of both streams is saved and restored as one."""

    def __init__(self, config: TrainLoRA) -> None:
        """Opens the songs of the style, and those of `prior` if there are any."""
        self.style, self.prior = models.open_batches(config, "train"), None
        if config.prior:
            data = dataclasses.replace(
                config.data, shards=config.prior, batch_size=config.prior_items
            )
            self.prior = models.open_batches(dataclasses.replace(config, data=data), "train")

    def __next__(self) -> Songs:
        return Songs(next(self.style), None if self.prior is None else next(self.prior))

    def counts(self) -> dict[str, int]:
        """Gives what was counted of both streams together."""
        others = {} if self.prior is None else self.prior.counts()
        return dict(collections.Counter(self.style.counts()) + collections.Counter(others))

    def get_state(self) -> dict[str, Any]:
        """Gives the position after the last songs handed out."""
        state = {"style": self.style.get_state()}
        return state if self.prior is None else state | {"prior": self.prior.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to a position."""
        self.style.set_state(state["style"])
        if self.prior is not None:
            self.prior.set_state(state["prior"])


# What is measured ---------------------------------------------------------------------------------


def make_measure(
    config: TrainLoRA, setting: Setting, frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives adapters -> errors on the held-out songs and on the control.

    Both come from the validation split; noise and times are the same for whatever is measured. With
    `eval_batches` 0 nothing is.
    """
    evaluate = dit.make_evaluate(setting)
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
    loaded = models.load(config.model, config.seed, mesh)
    frozen = models.cast(loaded.params, config.model.frozen_dtype)
    batches = SongBatches(config)
    check_held_out(config)
    silence = models.common_silence(loaded, batches.style.silence_latent)
    setting = make_setting(config, loaded, silence)
    init_adapters = jax.jit(functools.partial(lora.init, spec=config.adapter))
    fresh = init_adapters(jax.random.key(config.seed), loaded.params["dit"])

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place_params(frozen, mesh)
        del loaded
        init = functools.partial(dit.make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (fresh,))
        places = shardings(jax.eval_shape(init, fresh))
        loss = functools.partial(adapter_loss, config)
        train_step = run.counted(dit.make_train_step(setting, fresh, places, loss))
        measure = make_measure(config, setting, frozen, mesh)
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
        # fresh adapters change no bit (tests/nn/test_lora.py), and share the compiled program
        untrained = mesh_lib.place_params(fresh, mesh)
        before, after = measure(untrained), measure(adapters)
        run.metrics.note(config.num_steps, after | {f"base/{k}": v for k, v in before.items()})
        _say(before, after)
        if config.report:
            sounds = {"base": hear(untrained), "adapter": hear(adapters)}
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
    shown = {
        name: points for name, points in series.items() if not name.startswith(("time/", "data/"))
    }
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
