"""Trains the velocity network and its encoders by flow matching.

    t ~ the larger of two logit-normal draws,  noise ~ N(0, 1),  x_t = t noise + (1 - t) data
    loss = mean (v(x_t, t, condition, context) - (noise - data))^2                            (1)

One item in seven reads the learned null condition in place of its own, which is what guidance later
subtracts; source latents and edit mask are never dropped. Padded frames count, as they do in the
release (`masked_loss=true` leaves them out). Text2music, repainting and the other tasks differ in
the batch alone: in source, mask and instruction; covers read their source through the 5 Hz codes
(`covers=true`). A curriculum is a list of phases with songs, tasks and lengths of their own.
`emphasis` weighs the last channels of the latents more, where an autoencoder keeps there what a
model is slow to learn (the levels of configs/nano/vae_levels.py, in which beats show).

With `mean_flow.share` a part of the items trains the average velocity over [r, t] (ops/meanflow.py)

    loss = mean w (u(x_t, t, r) - (v - (t - r) du/dt))^2,  w = 1 / (error + c)^p              (2)

which a sampler of few steps can follow. The release has the second time embedding that this needs;
all its published weights have the branch switched off.

What is trained is a list of patterns over the parts of the model. The release starts from a trained
text encoder and freezes it; the nano family has none to start from, so its recipe trains that one
jointly, from random weights. An average of the weights is kept, evaluated and exported.

    python -m train.dit --config configs/nano/dit.py
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.data.ledger import TooManyBadSongs
from acestep_jax.nn import straight
from acestep_jax.nn.model import Networks
from acestep_jax.ops import flow, gaussian, losses, meanflow, timesteps
from acestep_jax.training import cli, curriculum, listen, loop, models, optim
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.config import Data
from acestep_jax.training.overrides import ConfigError
from acestep_jax.training.recipes.dit import TrainDiT
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]

EVAL_LEVELS = 10
"""An evaluation averages the error at the middles of this many equal intervals of t."""


class Setting(NamedTuple):
    """What a step needs besides state and batch.

    Attributes:
      config: the run.
      networks: the modules.
      silence_latent: [1, S, C] where covers pass through the codes, else None.
    """

    config: TrainDiT
    networks: Networks
    silence_latent: Array | None


# The loss -----------------------------------------------------------------------------------------


def encode(setting: Setting, parts: Params, batch: Batch) -> Scene:
    """Runs the encoders, trained or frozen, on a batch."""
    return scene_lib.encode(
        setting.networks,
        parts,
        batch,
        mask_padding=setting.config.model.mask_padding,
        silence_latent=setting.silence_latent,
    )


def drop_conditions(key: Key, scene: Scene, probability: float) -> Scene:
    """Replaces all condition tokens of an item by the null condition with some probability."""
    dropped = jax.random.bernoulli(key, probability, scene.real.shape[:1])
    null = jnp.broadcast_to(scene.null, scene.tokens.shape).astype(scene.tokens.dtype)
    return scene.replace(tokens=jnp.where(dropped[:, None, None], null, scene.tokens))


def draw_times(setting: Setting, key: Key, count: int) -> tuple[Array, Array]:
    """Draws t and r <= t, [count] each; all are equal without `mean_flow`."""
    config, sizes = setting.config, setting.networks.config
    law = {"mean": sizes.timestep_mu, "std": sizes.timestep_sigma}
    if config.mean_flow.on:
        return meanflow.sample_time_pairs(key, (count,), 1 - config.mean_flow.share, **law)
    t = timesteps.sample_times(key, (count,), config.time_law, **law)
    return t, t


def average_field(setting: Setting, params: Params, scene: Scene) -> meanflow.AverageFn:
    """Closes the DiT over the scene as an average velocity u(x_t, t, r)."""
    # fused attention kernels have a hand-written gradient and no forward-mode one
    dit, variables = setting.networks.dit.clone(attention="portable"), {"params": params}
    cross = dit.apply(variables, scene.tokens, scene.mask, method="project_condition")

    def average(x_t: Array, t: Array, r: Array) -> Array:
        return dit.apply(variables, x_t, t, scene.context, cross, r=r, frame_mask=scene.frame_mask)

    return average


def channel_weights(emphasis: tuple[int, float], channels: int) -> Array | None:
    """Gives the weights [C], of mean 1, of an emphasis on the last channels; None for none."""
    count, weight = emphasis
    if not count:
        return None
    weights = jnp.where(jnp.arange(channels) < channels - count, 1.0, weight)
    return weights / jnp.mean(weights)


def velocity_errors(
    setting: Setting,
    parts: Params,
    scene: Scene,
    t: Array,
    noise: Array,
    weights: Array | None = None,
) -> Array:
    """Evaluates the squared velocity error of every frame at times t [B]: [B, T].

    Args:
      setting: configuration and modules.
      parts: all parameters.
      scene: the encoded batch.
      t: [B], training times.
      noise: [B, T, C].
      weights: [C] of the channels, see `channel_weights`.
    """
    x_t = flow.interpolate(scene.real, noise, t)
    predicted = scene_lib.velocity(setting.networks, parts["dit"], scene, x_t, t)
    return losses.squared_error(predicted, flow.velocity_target(scene.real, noise), weights)


def average_errors(
    setting: Setting, parts: Params, scene: Scene, t: Array, r: Array, noise: Array
) -> Array:
    """Evaluates the squared error of (2), without its weight, of every frame: [B, T]."""
    average = average_field(setting, parts["dit"], scene)
    predicted, target = meanflow.predict_and_target(
        average,
        flow.interpolate(scene.real, noise, t),
        t,
        r,
        flow.velocity_target(scene.real, noise),
    )
    return losses.squared_error(predicted, target)


def flow_loss(
    trained: Params, setting: Setting, frozen: Params, batch: Batch, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates (1) or (2), and the error near data and near noise.

    Args:
      trained: {part: parameters} this is differentiated by.
      setting: configuration and modules.
      frozen: the other parts.
      batch: songs and prompts.
      key: of times, noise and dropped conditions.
    """
    config, parts = setting.config, frozen | trained
    time_key, noise_key, drop_key = jax.random.split(key, 3)
    scene = drop_conditions(drop_key, encode(setting, parts, batch), config.condition_dropout)
    t, r = draw_times(setting, time_key, scene.real.shape[0])
    noise = jax.random.normal(noise_key, scene.real.shape)
    mask = batch.frame_mask if config.masked_loss else None
    if config.mean_flow.on:
        errors = average_errors(setting, parts, scene, t, r, noise)
        per_item = losses.masked_mean(errors, mask, axis=1)
        rule = config.mean_flow
        weight = meanflow.adaptive_weight(per_item, rule.power, rule.offset)
        loss = jnp.mean(weight * per_item)
        metrics = {"loss/weighted": loss, "error/interval": losses.masked_mean(per_item, r < t)}
    else:
        weights = channel_weights(config.emphasis, noise.shape[-1])
        errors = velocity_errors(setting, parts, scene, t, noise, weights)
        loss, metrics = losses.masked_mean(errors, mask), {}
    per_item, at_once = jnp.mean(errors, axis=1), r == t
    return loss, metrics | {
        "loss/velocity": losses.masked_mean(errors, mask),
        "error/near_data": losses.masked_mean(per_item, (t < 0.5) & at_once),
        "error/near_noise": losses.masked_mean(per_item, (t >= 0.5) & at_once),
    }


# Steps: the only jit of the file ------------------------------------------------------------------


def make_state(config: TrainDiT, trained: Params) -> TrainState:
    """Makes the state before the first step."""
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)
    settings = {"model": config.optimizer}
    key = jax.random.key(config.seed)
    return state_lib.init_state(key, {"model": trained}, {"model": optimizer}, settings)


def make_train_step(
    setting: Setting,
    trained: Params,
    places: TrainState | None = None,
    loss_fn: Callable[..., tuple[Array, Metrics]] = flow_loss,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles (state, frozen, batch) -> (state, metrics); the state is donated.

    Args:
      setting: configuration and modules.
      trained: the trained parts or their shapes.
      places: where the state lives (`mesh.state_shardings`); None for one device.
      loss_fn: what is descended, with the arguments of `flow_loss`.
    """
    config = setting.config
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)

    def train_step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        key = state_lib.step_key(state)
        loss = functools.partial(loss_fn, setting=setting, frozen=frozen, batch=batch, key=key)
        state, metrics = state_lib.value_and_update(
            state, "model", loss, optimizer, config.optimizer
        )
        return state_lib.advance(state), metrics

    shardings = {} if places is None else {"out_shardings": (places, None)}
    return jax.jit(train_step, donate_argnums=0, **shardings)


Evaluate = Callable[[Params, Params, Batch], dict[str, Array]]


def make_evaluate(setting: Setting) -> Evaluate:
    """Compiles (trained, frozen, batch) -> mean errors at each of EVAL_LEVELS levels of t.

    They are: `error`; `gaussian`, what the best model errs that knows of every channel no more than
    mean and variance; with `eval_prompts` also `null` and `other`, the error without a condition
    and with a neighbour's. The noise is always the same, so that evaluations can be compared.
    """

    @jax.jit
    def evaluate(trained: Params, frozen: Params, batch: Batch) -> dict[str, Array]:
        parts = frozen | trained
        scene = encode(setting, parts, batch)
        noise = jax.random.normal(jax.random.key(0), scene.real.shape)
        scenes = {"error": scene}
        if setting.config.eval_prompts:
            null = jnp.broadcast_to(scene.null, scene.tokens.shape).astype(scene.tokens.dtype)
            scenes["null"] = scene.replace(tokens=null)
            scenes["other"] = scene_lib.with_other_prompts(scene)
        spread = channel_spread(scene.real, batch.frame_mask)

        def at(t: Array) -> dict[str, Array]:
            times = jnp.full(noise.shape[:1], t)
            errors = {
                name: velocity_errors(setting, parts, seen, times, noise)
                for name, seen in scenes.items()
            }
            means = {n: losses.masked_mean(e, batch.frame_mask) for n, e in errors.items()}
            return means | {"gaussian": jnp.mean(gaussian.irreducible_loss(t, spread))}

        return jax.lax.map(at, (jnp.arange(EVAL_LEVELS) + 0.5) / EVAL_LEVELS)

    return evaluate


def channel_spread(latents: Array, frame_mask: Array) -> Array:
    """Measures the standard deviation of every channel over the frames that count: -> [C]."""
    mask = jnp.broadcast_to(frame_mask[..., None], latents.shape)
    mean = losses.masked_mean(latents, mask, axis=(0, 1))
    return jnp.sqrt(losses.masked_mean((latents - mean[None, None]) ** 2, mask, axis=(0, 1)))


def held_out_error(
    evaluate: Evaluate,
    trained: Params,
    frozen: Params,
    batches: Iterator[Batch],
    count: int,
    prefix: str = "eval",
) -> dict[str, float]:
    """Averages an evaluation over `count` held-out batches: over all levels, and at each."""
    tables = [evaluate(trained, frozen, next(batches)) for _ in range(count)]
    mean = jax.tree.map(lambda *levels: sum(levels) / count, *tables)
    totals = {f"{prefix}/{name}": float(jnp.mean(levels)) for name, levels in mean.items()}
    levels = {
        f"{prefix}/error_t{(i + 0.5) / EVAL_LEVELS:.2f}": float(value)
        for i, value in enumerate(mean["error"])
    }
    return totals | levels


# The run, in the order it happens -----------------------------------------------------------------


def first_params(config: TrainDiT, params: Params) -> Params:
    """Gives the parameters to start from; a DiT without weights may start as a straight line."""
    if config.straight_start and not config.model.weights:
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        return params | {"dit": straight.start_straight(key, params["dit"])}
    return params


def open_phases(config: TrainDiT) -> curriculum.PhasedBatches:
    """Opens the training data, phase after phase; each shuffles with a seed of its own."""
    phases = config.phase_data()

    def open_phase(index: int) -> Iterator[Batch]:
        data = phases[index][1]
        changed = dataclasses.replace(config, data=data, seed=config.seed + index)
        return models.open_batches(changed, "train")

    return curriculum.PhasedBatches([steps for steps, _ in phases], open_phase)


def held_out_views(config: TrainDiT) -> dict[str, Data]:
    """Gives {prefix of the log: data}: the mixture of the last phase, and each of `eval_tasks`."""
    data = config.phase_data()[-1][1]
    return {"eval": data} | {
        f"eval/{task}": dataclasses.replace(data, tasks=((task, 1.0),))
        for task in config.eval_tasks
    }


def check_held_out(config: TrainDiT) -> None:
    """Refuses, before anything is trained, tasks that the held-out songs do not allow.

    Raises:
      ConfigError: it names the task; evaluations draw the very examples that are tried here.
    """
    for prefix, view in held_out_views(config).items():
        batches = models.open_batches(dataclasses.replace(config, data=view), "validation")
        try:
            for _ in range(config.eval_batches):
                next(batches)
        except TooManyBadSongs as error:
            raise ConfigError(
                f"{prefix} cannot be measured on the validation split: {error} Leave the task out "
                "of eval_tasks, or hold songs with stems out."
            ) from error


def make_held_out(
    setting: Setting, frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives trained -> errors on the validation split: of the run's mixture, and task by task.

    The clips are those of the last phase, or the run's own.
    """
    config, evaluate = setting.config, make_evaluate(setting)

    def held_out(trained: Params) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for prefix, view in held_out_views(config).items():
            batches = models.open_batches(dataclasses.replace(config, data=view), "validation")
            placed = (mesh_lib.place_batch(batch, mesh) for batch in batches)
            numbers |= held_out_error(
                evaluate, trained, frozen, placed, config.eval_batches, prefix
            )
        return numbers

    return held_out


def main(config: TrainDiT) -> None:
    """Trains, evaluates, and exports the averaged weights."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed, mesh)
    trained, frozen = models.split(first_params(config, loaded.params), config.trained)
    frozen = models.cast(frozen, config.model.frozen_dtype)
    batches = open_phases(config)
    check_held_out(config)
    silence = models.common_silence(loaded, batches.current.silence_latent)
    setting = Setting(config, loaded.networks, silence if config.covers else None)

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place_params(frozen, mesh)
        trained = mesh_lib.place_params(trained, mesh)
        init = functools.partial(make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (trained,))
        loaded, trained = loaded.without_params(), jax.eval_shape(lambda: trained)
        places = shardings(jax.eval_shape(init, trained))
        train_step = run.counted(make_train_step(setting, trained, places))
        held_out = make_held_out(setting, frozen, mesh)
        listener = listen.open_listener(config, setting.networks, mesh, setting.silence_latent)

        for step in run.steps(start):
            phase = batches.phase
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = train_step(state, frozen, batch)
            run.end_step(step, state, metrics | {"phase": phase}, batches)
            run.listen(step + 1, listener, frozen | state.best("model"))
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out(state.best("model")))

        numbers = held_out(state.best("model"))
        run.metrics.note(config.num_steps, numbers)
        folder = run.workdir / "export"
        parts = frozen | state.best("model")
        models.export(config.model, loaded, parts, silence, folder)
        logging.warning(
            "Held-out error %.4f after %d steps; averaged weights exported to %s.",
            numbers["eval/error"],
            config.num_steps,
            folder,
        )


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/dit.py")
