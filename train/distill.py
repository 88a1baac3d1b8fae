"""Distils a guided many-step flow model into a generator of 4 to 8 unguided steps.

The student starts as the teacher and learns, on the states its own sampler visits, to make samples
distributed like the teacher's guided ones. Three networks of one shape: the *teacher*, frozen and
guided; the *fake score*, kept fitted to the student's samples; the *student*, which descends on the
difference of the two (ops/distill.py, equations 1-4). A *discriminator* of noised latents adds what
only real songs know. One iteration:

    simulate   roll the student's sampler from noise, once: x_k and its data estimate at every step
    critics    several times: fit the fake score (flow matching) and the discriminator to them
    student    one call at a step k an item, with gradient: matching + guidance + adversarial term

The shift of the grid is drawn afresh for every item (1, 2 or 3): one student serves all three.

How this differs from the papers: all updates of an iteration share one roll, since the student does
not move between them (DMD2, arXiv:2405.14867, rolls afresh), so k may differ from item to item; a
non-finite gradient stops the run instead of becoming zero; before matching begins the student may
be fitted to the teacher's guided end points (as in ARC, arXiv:2505.08175).

    python -m train.distill --config configs/nano/distill.py
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.ops import distill, flow, losses, timesteps
from acestep_jax.training import adversary as adversary_lib
from acestep_jax.training import cli, compare, loop, models, optim
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import rollout as rollout_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.adversary import Adversary
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]


class Game(NamedTuple):
    """Configuration and modules of a run; parameters are arguments of everything below.

    `frozen` is {"teacher": DiT parameters, "encoders": {part: parameters}}; trained are "student",
    "fake" and "discriminator".
    """

    config: Distill
    networks: Networks
    adversary: Adversary


def make_game(config: Distill, networks: Networks) -> Game:
    """Puts the discriminator beside the networks."""
    module = adversary_lib.make_discriminator(config.gan)
    return Game(config, networks, Adversary(config.gan, networks, module))


def encode(game: Game, frozen: Params, batch: Batch) -> Scene:
    """Runs the frozen encoders on a batch, once for all networks."""
    masked = game.config.model.mask_padding
    return scene_lib.encode(game.networks, frozen["encoders"], batch, mask_padding=masked)


# Losses: each returns (scalar, metrics) -----------------------------------------------------------


def flow_loss(
    game: Game, params: Params, scene: Scene, data: Array, noise: Array, t: Array
) -> Array:
    """Fits a velocity network to straight lines between `data` and `noise` at times t [B]."""
    velocity = scene_lib.field(game.networks, params, scene)(flow.interpolate(data, noise, t), t)
    error = losses.squared_error(velocity, flow.velocity_target(data, noise))
    return losses.masked_mean(error, scene.frame_mask)


def regression_loss(
    student: Params, game: Game, scene: Scene, pair: tuple[Array, Array], key: Key
) -> tuple[Array, Metrics]:
    """Fits the student to the teacher's end points, at the levels of the student's own grids.

    On straight lines between noise and end point: reflow, Liu et al. 2022, arXiv:2209.03003.
    """
    (noise, data), (shift_key, step_key) = pair, jax.random.split(key)
    shift = distill.draw_shift(shift_key, noise.shape[:1], game.config.shift_law)
    count = max(distill.step_counts(game.config.step_law))
    even = 1 - jax.random.randint(step_key, shift.shape, 0, count) / count
    loss = flow_loss(game, student, scene, data, noise, timesteps.shift_times(even, shift))
    return loss, {"loss/regression": loss}


def fake_loss(
    fake: Params, game: Game, scene: Scene, generated: Array, key: Key
) -> tuple[Array, Metrics]:
    """Fits the fake score to the student's samples, at uniform levels, without guidance."""
    level_key, noise_key = jax.random.split(key)
    level = distill.draw_level(level_key, generated.shape[:1], 0.0, 1.0)
    noise = jax.random.normal(noise_key, generated.shape)
    loss = flow_loss(game, fake, scene, generated, noise, level)
    return loss, {"loss/fake": loss}


def student_loss(
    student: Params, game: Game, others: Params, frozen: Params, scene: Scene, state: Any, key: Key
) -> tuple[Array, Metrics]:
    """Moves the sample x_g = x_k - t_k G(x_k, t_k) against the distilled gradient.

    Args:
      student: the parameters this is differentiated by; all others stay as they are.
      game: configuration and modules.
      others: {"fake", "discriminator"} parameters.
      frozen: {"teacher", "encoders"} parameters.
      scene: the batch.
      state: (x_k, t_k, ...) from `Rollout.draw`.
      key: of levels and noises.
    """
    x_k, t_k, *_ = state
    velocity = scene_lib.field(game.networks, student, scene)
    generated = flow.data_from_velocity(x_k, velocity(x_k, t_k), t_k)
    still = jax.lax.stop_gradient(generated)
    gradient, metrics = distilled_gradient(game, others, frozen, scene, still, t_k, key)
    loss = jnp.mean(distill.surrogate_loss(generated, gradient, scene.frame_mask))
    return loss, metrics | {"generated_std": jnp.std(still)}


def distilled_gradient(
    game: Game, others: Params, frozen: Params, scene: Scene, generated: Array, t_k: Array, key: Key
) -> tuple[Array, Metrics]:
    """Adds up what pulls a sample x_g: normalised matching and guidance, and the adversary."""
    key, gan_key = jax.random.split(key)
    terms = directions(game, others["fake"], frozen["teacher"], scene, generated, t_k, key)
    weight = distill.normalizer(generated, terms.teacher_data, scene.frame_mask)
    matching, guidance = (flow.broadcast_time(weight, generated) * term for term in terms[:2])
    gradient, metrics = matching + guidance, distill.diagnostics(terms, generated)
    metrics |= {
        "loss/matching": 0.5 * jnp.mean(matching**2),
        "loss/guidance": 0.5 * jnp.mean(guidance**2),
    }
    if game.config.gan.discriminator == "none":
        return gradient, metrics
    features = choose_features(game, others["fake"], frozen["teacher"])
    adversarial, slope = game.adversary.generator_slope(
        others["discriminator"], features, scene, generated, gan_key
    )
    slope *= game.config.gan.weight
    metrics |= {
        "loss/adversarial": adversarial,
        "gan_over_dm": optax.global_norm(slope) / optax.global_norm(gradient),
    }
    return gradient + slope, metrics


def directions(
    game: Game, fake: Params, teacher: Params, scene: Scene, generated: Array, t_k: Array, key: Key
) -> distill.Directions:
    """Evaluates the matching and guidance terms at drawn noise levels."""
    config, shape = game.config, generated.shape
    fields = (
        scene_lib.field(game.networks, fake, scene),
        scene_lib.field(game.networks, teacher, scene),
        scene_lib.null_field(game.networks, teacher, scene),
    )
    level_key, noise_key, *own = jax.random.split(key, 4)
    level = distill.draw_level(level_key, shape[:1], config.min_level, config.max_level)
    noise = jax.random.normal(noise_key, shape)
    scale = config.guidance_scale
    if not config.decoupled:
        return distill.coupled_directions(generated, noise, level, *fields, scale)
    # The guidance term looks at levels cleaner than the step the student just took.
    highest = jnp.minimum(t_k, config.max_level)
    cleaner = distill.draw_level(own[0], shape[:1], config.min_level, highest)
    noises = (noise, jax.random.normal(own[1], shape))
    return distill.decoupled_directions(generated, noises, (level, cleaner), *fields, scale)


def choose_features(game: Game, fake: Params, teacher: Params) -> Params:
    """Chooses the DiT whose hidden states a feature discriminator reads."""
    return jax.lax.stop_gradient(fake if game.config.gan.features_of == "fake" else teacher)


# Steps: the only jit of the file ------------------------------------------------------------------


def make_optimizers(config: Distill, params: Params) -> dict[str, optax.GradientTransformation]:
    """Builds every network's optimizer for the updates it will make, and the warm-up's."""
    before, own = config.warmup, config.num_steps - config.warmup.steps
    updates = {
        "student": own - before.critic_steps,
        "fake": own * config.critic_steps,
        "discriminator": own * config.critic_steps,
    }
    rules = {
        name: optim.make_optimizer(getattr(config, name), updates[name], params[name])
        for name in params
    }
    count = max(1, before.steps * before.updates)
    return rules | {"warmup": optim.make_optimizer(before.student, count, params["student"])}


def make_state(game: Game, teacher: Params) -> TrainState:
    """Starts student and fake score as the teacher, and the discriminator at random."""
    config, key = game.config, jax.random.key(game.config.seed)

    def copy() -> Params:  # a donated state holds no buffer twice
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), teacher)

    params = {"student": copy(), "fake": copy()}
    if config.gan.discriminator != "none":
        params["discriminator"] = game.adversary.init(jax.random.fold_in(key, 1), teacher)
    optimizers = make_optimizers(config, params)
    if config.warmup.steps:
        optimizers["student"] = optimizers["warmup"]
    settings = {name: getattr(config, name) for name in params}
    return state_lib.init_state(key, params, optimizers, settings)


class Steps(NamedTuple):
    """The compiled parts of an iteration; every state argument is donated."""

    encode: Callable[..., Scene]  # (frozen, batch)
    simulate: Callable[..., rollout_lib.Rollout]  # (state, scene)
    end_points: Callable[..., tuple[Array, Array]]  # (state, frozen, scene)
    regress: Callable[..., tuple[TrainState, Metrics]]  # (state, scene, pair, index)
    begin: Callable[[TrainState], TrainState]  # forgets the warm-up's optimizer
    critics: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, scene, rollout, index)
    student: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, scene, rollout)
    advance: Callable[[TrainState], TrainState]  # counts the iteration


def make_steps(game: Game, params: Params, places: TrainState | None = None) -> Steps:
    """Compiles the parts of an iteration.

    Generator and critics are separate programs: one program with a branch would keep the memory of
    both.

    Args:
      game: configuration and modules.
      params: the trained parameters or their shapes.
      places: where the state lives (`mesh.state_shardings`), or None for one device.
    """
    config, networks, optimizers = game.config, game.networks, make_optimizers(game.config, params)
    roll = functools.partial(rollout_lib.simulate, config, networks)
    pairs = functools.partial(rollout_lib.end_points, config, networks)

    def update(state: TrainState, name: str, loss: Callable, rule: str) -> tuple:
        setting = config.warmup.student if rule == "warmup" else getattr(config, name)
        setting = dataclasses.replace(setting, ema_decay=getattr(config, name).ema_decay)
        return state_lib.value_and_update(state, name, loss, optimizers[rule], setting)

    def regress(state: TrainState, scene: Scene, pair: tuple, index: Array) -> tuple:
        key = state_lib.step_key(state, 100 + index)
        loss = functools.partial(regression_loss, game=game, scene=scene, pair=pair, key=key)
        return update(state, "student", loss, "warmup")

    def critics(
        state: TrainState, frozen: Params, scene: Scene, rollout: rollout_lib.Rollout, index: Array
    ) -> tuple:
        draw_key, fake_key, disc_key = jax.random.split(state_lib.step_key(state, 100 + index), 3)
        *_, generated = rollout.draw(draw_key)
        given = {"scene": scene, "generated": generated}
        features = choose_features(game, state.params["fake"], frozen["teacher"])
        loss = functools.partial(fake_loss, game=game, key=fake_key, **given)
        state, metrics = update(state, "fake", loss, "fake")
        if config.gan.discriminator == "none":
            return state, metrics
        judge = game.adversary.discriminator_loss
        loss = functools.partial(judge, features=features, key=disc_key, **given)
        state, more = update(state, "discriminator", loss, "discriminator")
        return state, metrics | more

    def student(
        state: TrainState, frozen: Params, scene: Scene, rollout: rollout_lib.Rollout
    ) -> tuple:
        draw_key, loss_key = jax.random.split(state_lib.step_key(state, 1))
        given = {"others": state.params, "frozen": frozen, "scene": scene, "key": loss_key}
        loss = functools.partial(student_loss, game=game, state=rollout.draw(draw_key), **given)
        return update(state, "student", loss, "student")

    def begin(state: TrainState) -> TrainState:
        fresh = optimizers["student"].init(state.params["student"])
        return state.replace(optimizer=state.optimizer | {"student": fresh})

    state_out = {} if places is None else {"out_shardings": places}
    pair_out = {} if places is None else {"out_shardings": (places, None)}
    change = functools.partial(jax.jit, donate_argnums=0)
    return Steps(
        encode=jax.jit(functools.partial(encode, game)),
        simulate=jax.jit(lambda s, scene: roll(s.params["student"], scene, state_lib.step_key(s))),
        end_points=jax.jit(
            lambda s, frozen, scene: pairs(frozen["teacher"], scene, state_lib.step_key(s))
        ),
        regress=change(regress, **pair_out),
        begin=change(begin, **state_out),
        critics=change(critics, **pair_out),
        student=change(student, **pair_out),
        advance=change(state_lib.advance, **state_out),
    )


def iterate(
    config: Distill, steps: Steps, state: TrainState, frozen: Params, batch: Batch, step: int
) -> tuple[TrainState, Metrics]:
    """Runs one iteration: of the warm-up, of the critics alone, or the whole."""
    warmup, scene = config.warmup, steps.encode(frozen, batch)
    if step < warmup.steps:
        pair = steps.end_points(state, frozen, scene)
        for i in range(warmup.updates):
            state, metrics = steps.regress(state, scene, pair, i)
        return steps.advance(state), metrics

    if step == warmup.steps > 0:
        state = steps.begin(state)
    rollout, metrics = steps.simulate(state, scene), {}
    for i in range(config.critic_steps):  # the fake score must keep up with the student
        state, metrics = steps.critics(state, frozen, scene, rollout, i)
    if step >= warmup.steps + warmup.critic_steps:
        state, more = steps.student(state, frozen, scene, rollout)
        metrics |= more
    return steps.advance(state), metrics


# The run, in the order it happens -----------------------------------------------------------------


def main(config: Distill) -> None:
    """Distils, exports the student, and reports what it learned."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed)
    game = make_game(config, loaded.networks)
    batches = models.open_batches(config, "train")

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = separate(config, loaded.params)
        frozen = mesh_lib.place(frozen, mesh_lib.parameter_shardings(frozen, mesh))
        init = functools.partial(make_state, game, frozen["teacher"])
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches)
        shapes = jax.eval_shape(init)
        steps = make_steps(game, shapes.params, shardings(shapes))

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = iterate(config, steps, state, frozen, batch, step)
            run.end_step(step, state, metrics, batches)

        student = state.best("student")
        parts = frozen["encoders"] | {"dit": student}
        silence = loaded.silence_latent
        silence = jnp.asarray(batches.silence_latent) if silence is None else silence
        models.export(config.model, loaded, parts, silence, run.workdir / "export")
        count = config.evaluation.num_items
        held_out = next(models.open_batches(config, "validation", count))
        scene = steps.encode(frozen, mesh_lib.place_batch(held_out, mesh))
        table, audio = compare.compare(config, game.networks, frozen["teacher"], student, scene)
        prompts = compare.captions(held_out, models.tokenizer_folder(config.model))
        path = compare.write_report(config, run.workdir, table, audio, prompts)
        logging.warning("Report: %s", path)


def separate(config: Distill, params: Params) -> Params:
    """Separates the teacher from the encoders: {"teacher": ..., "encoders": {part: ...}}."""
    encoders = {name: value for name, value in params.items() if name != "dit"}
    frozen = {"teacher": params["dit"], "encoders": encoders}
    return models.cast(frozen, config.model.frozen_dtype)


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/distill.py")
