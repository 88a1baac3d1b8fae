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

    python -m train.distill --config configs/nano/distill.py            (--dry_run: compile only)
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from acestep_jax.data.batch import Batch
from acestep_jax.ops import distill, flow, losses
from acestep_jax.training import cached_songs, cli, listen, loop, models, rehearsal, updates, warmup
from acestep_jax.training import game as game_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import report_distill as report_lib
from acestep_jax.training import rollout as rollout_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.game import Game
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.rollout import Rollout
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]

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
    players: Params,
    scene: Scene,
    state: tuple[Array, Array],
    key: Key,
) -> tuple[Array, Metrics]:
    """Moves the sample x_g = x_k - t_k G(x_k, t_k) against the distilled gradient.

    Args:
      student: the parameters this is differentiated by; all others stay as they are.
      game: configuration and modules.
      players: {"fake", "discriminator", "teacher"} parameters.
      scene: the batch.
      state: x_k [B, T, C] and t_k [B], where the student's own sampler has brought it.
      key: of levels and noises.
    """
    x_k, t_k = state
    velocity = scene_lib.velocity(game.networks, student, scene, x_k, t_k)
    generated = flow.data_from_velocity(x_k, velocity, t_k)
    still = jax.lax.stop_gradient(generated)
    gradient, metrics = distilled_gradient(game, players, scene, still, t_k, key)
    loss = jnp.mean(distill.surrogate_loss(generated, gradient, scene.frame_mask))
    ratio = distill.channel_std_ratio(still, scene.real, scene.frame_mask)
    return loss, metrics | {"channel_std_ratio": ratio}


def distilled_gradient(
    game: Game, players: Params, scene: Scene, generated: Array, t_k: Array, key: Key
) -> tuple[Array, Metrics]:
    """Adds up what pulls a sample x_g: normalised matching and guidance, and the adversary."""
    key, gan_key = jax.random.split(key)
    terms = directions(game, players, scene, generated, t_k, key)
    weight = distill.normalizer(generated, terms.teacher_data, scene.frame_mask)
    matching, guidance = (flow.broadcast_time(weight, generated) * term for term in terms[:2])
    gradient = game.config.matching_weight * matching + guidance
    metrics = distill.diagnostics(terms, generated) | {
        "loss/matching": 0.5 * jnp.mean(matching**2),
        "loss/guidance": 0.5 * jnp.mean(guidance**2),
    }
    if game.adversary is None:
        return gradient, metrics
    slope, more = game.adversary.pull(players, scene, generated, gan_key)
    ratio = optax.global_norm(slope) / optax.global_norm(gradient)
    return gradient + slope, metrics | more | {"gan_over_dm": ratio}


def directions(
    game: Game, players: Params, scene: Scene, generated: Array, t_k: Array, key: Key
) -> distill.Directions:
    """Evaluates the matching and guidance terms at drawn noise levels."""
    config, networks = game.config, game.networks
    level_key, noise_key = jax.random.split(key)
    levels = distill.draw_term_levels(level_key, t_k, config.min_level, config.max_level)
    noises = jax.random.normal(noise_key, (2, *generated.shape))
    return distill.DIRECTIONS[config.decoupled](
        generated,
        noises,
        levels,
        fake=scene_lib.field(networks, players["fake"], scene, once=True),
        conditional=scene_lib.field(networks, players["teacher"], scene),
        unconditional=scene_lib.null_field(networks, players["teacher"], scene),
        scale=config.guidance_scale,
        rule=config.guidance_rule,
        frame_mask=scene.frame_mask,
    )


# Steps: the only jit of the file ------------------------------------------------------------------


def update_discriminator(
    game: Game, state: TrainState, frozen: Params, scene: Scene, rollout: Rollout, index: Array
) -> tuple[TrainState, Metrics]:
    """Fits the discriminator, if there is one, for the `index`-th time in this iteration."""
    if game.adversary is None:
        return state, {}
    draw_key, _, key = critic_keys(state, index)
    *_, generated = rollout.draw(draw_key)
    features = game.adversary.choose_features(game_lib.seat(game, state.params, frozen))
    loss = functools.partial(
        game.adversary.discriminator_loss,
        features=features,
        key=key,
        scene=scene,
        generated=generated,
    )
    return updates.update(game.config, state, "discriminator", loss)


def update_fake(
    game: Game, state: TrainState, frozen: Params, scene: Scene, rollout: Rollout, index: Array
) -> tuple[TrainState, Metrics]:
    """Fits the fake score to the same samples."""
    draw_key, key, _ = critic_keys(state, index)
    *_, generated = rollout.draw(draw_key)
    loss = functools.partial(fake_loss, game=game, key=key, scene=scene, generated=generated)
    return updates.update(game.config, state, "fake", loss, base=frozen["teacher"])


def critic_keys(state: TrainState, index: Array) -> Key:
    """Gives the keys of the critics' `index`-th update: of the samples, fake score and judge."""
    return jax.random.split(state_lib.step_key(state, 100 + index), 3)


def update_student(
    game: Game, state: TrainState, frozen: Params, scene: Scene, rollout: Rollout
) -> tuple[TrainState, Metrics]:
    """Moves the student, at one state of the roll an item."""
    draw_key, key = jax.random.split(state_lib.step_key(state, 1))
    x_k, t_k, _ = rollout.draw(draw_key)
    players = game_lib.seat(game, state.params, frozen)
    given = {"game": game, "players": players, "scene": scene}
    loss = functools.partial(student_loss, **given, state=(x_k, t_k), key=key)
    return updates.update(game.config, state, "student", loss, base=frozen["teacher"])


class Steps(NamedTuple):
    """The compiled parts of an iteration; every state argument is donated by what returns one."""

    encode: Callable[..., Scene]  # (frozen, batch)
    simulate: Callable[..., Rollout]  # (state, frozen, scene)
    end_points: Callable[..., warmup.Pair]  # (state, frozen, scene)
    regress: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, scene, pair, index)
    end_warmup: Callable[[TrainState], TrainState]  # forgets the warm-up's optimizer
    # both (state, frozen, scene, rollout, index); the first may read features of the second
    discriminator: Callable[..., tuple[TrainState, Metrics]]
    fake: Callable[..., tuple[TrainState, Metrics]]
    student: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, scene, rollout)
    advance: Callable[[TrainState], TrainState]  # counts the iteration


def make_steps(game: Game, places: TrainState | None = None) -> Steps:
    """Compiles the parts of an iteration.

    Generator and critics are separate programs: one program with a branch would keep the memory of
    both. So are the two critics: XLA would interleave them, and hold the activations of both.

    Args:
      game: configuration and modules.
      places: where the state lives (`mesh.state_shardings`), or None for one device.
    """
    change = functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    renew = functools.partial(jax.jit, donate_argnums=0, out_shardings=places)
    return Steps(
        encode=jax.jit(functools.partial(game_lib.encode, game)),
        simulate=jax.jit(functools.partial(rollout_lib.roll, game)),
        end_points=jax.jit(functools.partial(warmup.end_points, game)),
        regress=change(functools.partial(warmup.regress, game)),
        end_warmup=renew(functools.partial(updates.end_warmup, game.config)),
        discriminator=change(functools.partial(update_discriminator, game)),
        fake=change(functools.partial(update_fake, game)),
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
            state, metrics = steps.regress(state, frozen, scene, pair, i)
        return steps.advance(state), metrics

    if step == before.steps > 0:
        state = steps.end_warmup(state)
    rollout, metrics = steps.simulate(state, frozen, scene), {}
    for i in range(config.critic_steps):  # the fake score must keep up with the student
        state, judged = steps.discriminator(state, frozen, scene, rollout, i)
        state, metrics = steps.fake(state, frozen, scene, rollout, i)
        metrics |= judged
    if step >= before.steps + before.critic_steps:
        state, more = steps.student(state, frozen, scene, rollout)
        metrics |= more
    return steps.advance(state), metrics


# The run, in the order it happens -----------------------------------------------------------------


def main(config: Distill) -> None:
    """Distils, exports the student, and reports what it learned."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed, mesh)
    game = game_lib.make_game(config, loaded.networks)

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = game_lib.place(config, loaded.params, mesh)
        loaded = loaded.without_params()
        batches = cached_songs.open_batches(game, frozen, mesh, run.workdir)
        init = functools.partial(game_lib.make_state, game)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (frozen["teacher"],))
        places = shardings(jax.eval_shape(init, frozen["teacher"]))
        steps = Steps(*map(run.counted, make_steps(game, places)))
        listener = listen.open_listener(config, game.networks, mesh)

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = iterate(config, steps, state, frozen, batch, step)
            run.end_step(step, state, metrics, batches)
            heard = game_lib.parts(game, state, frozen)
            run.listen(step + 1, listener, heard, at_end=False)

        game_lib.export(game, loaded, state, frozen, batches.silence_latent, run.workdir)
        report_lib.conclude(game, state, frozen, mesh, run.workdir)


if __name__ == "__main__":
    cli.run(main, "configs/nano/distill.py", functools.partial(rehearsal.rehearse, make_steps))
