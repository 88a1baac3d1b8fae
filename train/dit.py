"""Trains the velocity network and its encoders by flow matching.

    t ~ the larger of two logit-normal draws,  noise ~ N(0, 1),  x_t = t noise + (1 - t) data
    loss = mean (v(x_t, t, condition, context) - (noise - data))^2                            (1)

One item in seven reads the learned null condition in place of its own, which is what guidance later
subtracts; source latents and edit mask are never dropped. Padded frames count, as they do in the
release (`masked_loss=true` leaves them out). Text2music, repainting and the other tasks differ in
the batch alone: in source, mask and instruction.

What is trained is a list of patterns over the parts of the model. The release starts from a trained
text encoder and freezes it; the nano family has none to start from, so its recipe trains that one
jointly, from random weights. An average of the weights is kept, evaluated and exported.

    python -m train.dit --config configs/nano/dit.py
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.ops import flow, losses, timesteps
from acestep_jax.training import cli, loop, models, optim
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
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


def velocity_errors(setting: Setting, parts: Params, scene: Scene, t: Array, noise: Array) -> Array:
    """Evaluates the squared velocity error of every frame at times t [B]: [B, T]."""
    velocity = scene_lib.field(setting.networks, parts["dit"], scene)
    predicted = velocity(flow.interpolate(scene.real, noise, t), t)
    return losses.squared_error(predicted, flow.velocity_target(scene.real, noise))


def flow_loss(
    trained: Params, setting: Setting, frozen: Params, batch: Batch, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates (1), and the error near data and near noise.

    Args:
      trained: {part: parameters} this is differentiated by.
      setting: configuration and modules.
      frozen: the other parts.
      batch: songs and prompts.
      key: of times, noise and dropped conditions.
    """
    config, sizes = setting.config, setting.networks.config
    time_key, noise_key, drop_key = jax.random.split(key, 3)
    scene = drop_conditions(
        drop_key, encode(setting, frozen | trained, batch), config.condition_dropout
    )
    shape = scene.real.shape
    t = timesteps.sample_times(
        time_key, shape[:1], config.time_law, sizes.timestep_mu, sizes.timestep_sigma
    )
    noise = jax.random.normal(noise_key, shape)
    errors = velocity_errors(setting, frozen | trained, scene, t, noise)
    loss = losses.masked_mean(errors, batch.frame_mask if config.masked_loss else None)
    per_item = jnp.mean(errors, axis=1)
    metrics = {
        "loss/velocity": loss,
        "error/near_data": losses.masked_mean(per_item, t < 0.5),
        "error/near_noise": losses.masked_mean(per_item, t >= 0.5),
    }
    return loss, metrics


# Steps: the only jit of the file ------------------------------------------------------------------


def make_state(config: TrainDiT, trained: Params) -> TrainState:
    """Makes the state before the first step; copies, as training donates what it holds."""
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)
    params = {"model": jax.tree.map(jnp.copy, trained)}
    settings = {"model": config.optimizer}
    key = jax.random.key(config.seed)
    return state_lib.init_state(key, params, {"model": optimizer}, settings)


def make_train_step(
    setting: Setting, trained: Params, places: TrainState | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles (state, frozen, batch) -> (state, metrics); the state is donated.

    Args:
      setting: configuration and modules.
      trained: the trained parts or their shapes.
      places: where the state lives (`mesh.state_shardings`); None for one device.
    """
    config = setting.config
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)

    def train_step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        key = state_lib.step_key(state)
        loss = functools.partial(flow_loss, setting=setting, frozen=frozen, batch=batch, key=key)
        state, metrics = state_lib.value_and_update(
            state, "model", loss, optimizer, config.optimizer
        )
        return state_lib.advance(state), metrics

    shardings = {} if places is None else {"out_shardings": (places, None)}
    return jax.jit(train_step, donate_argnums=0, **shardings)


def make_evaluate(setting: Setting) -> Callable[[Params, Params, Batch], Array]:
    """Compiles (trained, frozen, batch) -> mean error at each of EVAL_LEVELS levels of t.

    The noise is always the same, so that evaluations can be compared.
    """

    @jax.jit
    def evaluate(trained: Params, frozen: Params, batch: Batch) -> Array:
        scene = encode(setting, frozen | trained, batch)
        noise = jax.random.normal(jax.random.key(0), scene.real.shape)

        def at(t: Array) -> Array:
            times = jnp.full(noise.shape[:1], t)
            errors = velocity_errors(setting, frozen | trained, scene, times, noise)
            return losses.masked_mean(errors, scene.frame_mask)

        return jax.lax.map(at, (jnp.arange(EVAL_LEVELS) + 0.5) / EVAL_LEVELS)

    return evaluate


def held_out_error(
    evaluate: Callable, trained: Params, frozen: Params, batches: Iterator[Batch], count: int
) -> dict[str, float]:
    """Averages an evaluation over `count` held-out batches: over all levels, and at each."""
    table = sum(evaluate(trained, frozen, next(batches)) for _ in range(count)) / count
    levels = {f"eval/error_t{(i + 0.5) / EVAL_LEVELS:.2f}": float(v) for i, v in enumerate(table)}
    return {"eval/error": float(jnp.mean(table))} | levels


# The run, in the order it happens -----------------------------------------------------------------


def main(config: TrainDiT) -> None:
    """Trains, evaluates, and exports the averaged weights."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed)
    trained, frozen = models.split(loaded.params, config.trained)
    frozen = models.cast(frozen, config.model.frozen_dtype)
    batches = models.open_batches(config, "train")
    silence = loaded.silence_latent
    silence = jnp.asarray(batches.silence_latent) if silence is None else silence
    setting = Setting(config, loaded.networks, silence if config.covers else None)

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place(frozen, mesh_lib.parameter_shardings(frozen, mesh))
        init = functools.partial(make_state, config, trained)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches)
        train_step = make_train_step(setting, trained, shardings(jax.eval_shape(init)))
        evaluate = make_evaluate(setting)

        def held_out() -> dict[str, float]:
            fresh = models.open_batches(config, "validation")
            placed = (mesh_lib.place_batch(batch, mesh) for batch in fresh)
            return held_out_error(
                evaluate, state.best("model"), frozen, placed, config.eval_batches
            )

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = train_step(state, frozen, batch)
            run.end_step(step, state, metrics, batches)
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out())

        numbers = held_out()
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
