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

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.ops import distill, flow, losses
from acestep_jax.training import adversary as adversary_lib
from acestep_jax.training import cli, compare, listen, loop, models, updates, warmup
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import rollout as rollout_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.adversary import Adversary
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.rollout import Rollout
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]


class Game(NamedTuple):
    """Configuration and modules of a run; parameters are arguments of everything below.

    Trained are `state.params`: "student", "fake" and, unless there is no adversary,
    "discriminator". `frozen` is {"teacher": DiT parameters, "encoders": {part: parameters}}.
    """

    config: Distill
    networks: Networks
    adversary: Adversary | None


def make_game(config: Distill, networks: Networks) -> Game:
    """Puts the discriminator beside the networks."""
    return Game(config, networks, adversary_lib.make_adversary(config.gan, networks))


def separate(config: Distill, params: Params) -> Params:
    """Separates the teacher from the encoders: {"teacher": ..., "encoders": {part: ...}}."""
    encoders = {name: value for name, value in params.items() if name != "dit"}
    frozen = {"teacher": params["dit"], "encoders": encoders}
    return models.cast(frozen, config.model.frozen_dtype)


def make_state(game: Game, teacher: Params) -> TrainState:
    """Starts student and fake score as the teacher, and the discriminator at random."""
    start = jax.tree.map(lambda x: x.astype(jnp.float32), teacher)
    params = {"student": start, "fake": start}
    if game.adversary is not None:
        key = jax.random.fold_in(jax.random.key(game.config.seed), 1)
        params["discriminator"] = game.adversary.init(key, teacher)
    return updates.init_state(game.config, params)


# Losses: each returns (scalar, metrics) -----------------------------------------------------------


def fake_loss(
    fake: Params, game: Game, scene: Scene, generated: Array, key: Key
) -> tuple[Array, Metrics]:
    """Fits the fake score to the student's songs, at uniform levels, without guidance."""
    level_key, noise_key = jax.random.split(key)
    level = distill.draw_level(level_key, generated.shape[:1], 0.0, 1.0)
    noise = jax.random.normal(noise_key, generated.shape)
    errors = scene_lib.velocity_errors(game.networks, fake, scene, generated, noise, level)
    loss = losses.masked_mean(errors, scene.frame_mask)
    return loss, {"loss/fake": loss}


def student_loss(
    student: Params,
    game: Game,
    others: Params,
    frozen: Params,
    scene: Scene,
    state: tuple[Array, Array],
    key: Key,
) -> tuple[Array, Metrics]:
    """Moves the sample x_g = x_k - t_k G(x_k, t_k) against the distilled gradient.

    Args:
      student: the parameters this is differentiated by; all others stay as they are.
      game: configuration and modules.
      others: {"fake", "discriminator"} parameters.
      frozen: {"teacher", "encoders"} parameters.
      scene: the batch.
      state: x_k [B, T, C] and t_k [B], where the student's own sampler has brought it.
      key: of levels and noises.
    """
    x_k, t_k = state
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
    if game.adversary is None:
        return gradient, metrics
    features = game.adversary.choose_features(others["fake"], frozen["teacher"])
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


# Steps: the only jit of the file ------------------------------------------------------------------


def encode(game: Game, frozen: Params, batch: Batch) -> Scene:
    """Runs the frozen encoders on a batch, once for all networks."""
    masked = game.config.model.mask_padding
    return scene_lib.encode(game.networks, frozen["encoders"], batch, mask_padding=masked)


def simulate(game: Game, state: TrainState, scene: Scene) -> Rollout:
    """Rolls the student's sampler from noise to its end."""
    key, student = state_lib.step_key(state), state.params["student"]
    return rollout_lib.simulate(game.config, game.networks, student, scene, key)


def end_points(game: Game, state: TrainState, frozen: Params, scene: Scene) -> warmup.Pair:
    """Samples the guided teacher: pairs (noise, song) for the warm-up."""
    key, teacher = state_lib.step_key(state), frozen["teacher"]
    return warmup.end_points(game.config, game.networks, teacher, scene, key)


def update_critics(
    game: Game, state: TrainState, frozen: Params, scene: Scene, rollout: Rollout, index: Array
) -> tuple[TrainState, Metrics]:
    """Fits fake score and discriminator, for the `index`-th time in this iteration."""
    draw_key, fake_key, judge_key = jax.random.split(state_lib.step_key(state, 100 + index), 3)
    *_, generated = rollout.draw(draw_key)
    seen = {"scene": scene, "generated": generated}
    loss = functools.partial(fake_loss, game=game, key=fake_key, **seen)
    after, metrics = updates.update(game.config, state, "fake", loss)
    if game.adversary is None:
        return after, metrics
    features = game.adversary.choose_features(state.params["fake"], frozen["teacher"])
    judge = game.adversary.discriminator_loss
    loss = functools.partial(judge, features=features, key=judge_key, **seen)
    after, more = updates.update(game.config, after, "discriminator", loss)
    return after, metrics | more


def update_student(
    game: Game, state: TrainState, frozen: Params, scene: Scene, rollout: Rollout
) -> tuple[TrainState, Metrics]:
    """Moves the student, at one state of the roll an item."""
    draw_key, key = jax.random.split(state_lib.step_key(state, 1))
    x_k, t_k, _ = rollout.draw(draw_key)
    given = {"game": game, "others": state.params, "frozen": frozen, "scene": scene}
    loss = functools.partial(student_loss, **given, state=(x_k, t_k), key=key)
    return updates.update(game.config, state, "student", loss)


class Steps(NamedTuple):
    """The compiled parts of an iteration; every state argument is donated by what returns one."""

    encode: Callable[..., Scene]  # (frozen, batch)
    simulate: Callable[..., Rollout]  # (state, scene)
    end_points: Callable[..., warmup.Pair]  # (state, frozen, scene)
    regress: Callable[..., tuple[TrainState, Metrics]]  # (state, scene, pair, index)
    end_warmup: Callable[[TrainState], TrainState]  # forgets the warm-up's optimizer
    critics: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, scene, rollout, index)
    student: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, scene, rollout)
    advance: Callable[[TrainState], TrainState]  # counts the iteration


def make_steps(game: Game, places: TrainState | None = None) -> Steps:
    """Compiles the parts of an iteration.

    Generator and critics are separate programs: one program with a branch would keep the memory of
    both.

    Args:
      game: configuration and modules.
      places: where the state lives (`mesh.state_shardings`), or None for one device.
    """
    change = functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    renew = functools.partial(jax.jit, donate_argnums=0, out_shardings=places)
    return Steps(
        encode=jax.jit(functools.partial(encode, game)),
        simulate=jax.jit(functools.partial(simulate, game)),
        end_points=jax.jit(functools.partial(end_points, game)),
        regress=change(functools.partial(warmup.regress, game.config, game.networks)),
        end_warmup=renew(functools.partial(updates.end_warmup, game.config)),
        critics=change(functools.partial(update_critics, game)),
        student=change(functools.partial(update_student, game)),
        advance=renew(state_lib.advance),
    )


def iterate(
    config: Distill, steps: Steps, state: TrainState, frozen: Params, batch: Batch, step: int
) -> tuple[TrainState, Metrics]:
    """Runs one iteration: of the warm-up, of the critics alone, or the whole."""
    before, scene = config.warmup, steps.encode(frozen, batch)
    if step < before.steps:
        pair = steps.end_points(state, frozen, scene)
        for i in range(before.updates):
            state, metrics = steps.regress(state, scene, pair, i)
        return steps.advance(state), metrics

    if step == before.steps > 0:
        state = steps.end_warmup(state)
    rollout, metrics = steps.simulate(state, scene), {}
    for i in range(config.critic_steps):  # the fake score must keep up with the student
        state, metrics = steps.critics(state, frozen, scene, rollout, i)
    if step >= before.steps + before.critic_steps:
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
        steps = Steps(*map(run.counted, make_steps(game, shardings(jax.eval_shape(init)))))
        listener = listen.open_listener(config, game.networks, mesh)

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = iterate(config, steps, state, frozen, batch, step)
            run.end_step(step, state, metrics, batches)
            heard = frozen["encoders"] | {"dit": state.best("student")}
            run.listen(step + 1, listener, heard, at_end=False)

        student = state.best("student")
        silence = loaded.silence_latent
        silence = jnp.asarray(batches.silence_latent) if silence is None else silence
        parts = frozen["encoders"] | {"dit": student}
        models.export(config.model, loaded, parts, silence, run.workdir / "export")

        held_out = next(models.open_batches(config, "validation", config.evaluation.num_items))
        scene = steps.encode(frozen, mesh_lib.place_batch(held_out, mesh))
        table, audio = compare.compare(config, game.networks, frozen["teacher"], student, scene)
        prompts = compare.captions(held_out, models.tokenizer_folder(config.model))
        path = compare.write_report(config, run.workdir, table, audio, prompts)
        logging.warning("Report: %s", path)


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/distill.py")
