"""The warm-up of a distillation: the student is fitted to the guided teacher's own songs.

The teacher's ODE carries noise to a song; the student learns the straight line between the two, at
the levels of its own grids. That is reflow (Liu et al. 2022, arXiv:2209.03003), and brings a
student near enough for matching to refine; ARC (arXiv:2505.08175) begins so, too.
"""

import functools

import jax

from acestep_jax.nn.model import Networks
from acestep_jax.ops import distill, losses, timesteps
from acestep_jax.training import game as game_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training import updates
from acestep_jax.training.game import Game
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]
Pair = tuple[Array, Array]
"""Noise and the song it becomes, [B, T, C] each."""


def end_points(game: Game, state: TrainState, frozen: Params, scene: Scene) -> Pair:
    """Samples pairs (noise, song) along the guided teacher's ODE, under this step's own key.

    Args:
      game: its config's guidance, `warmup.teacher_steps` and `evaluation.shift` are used.
      state: before the step.
      frozen: {"teacher": DiT parameters, ...}.
      scene: conditions.
    """
    noise = jax.random.normal(state_lib.step_key(state), scene.real.shape)
    return noise, game_lib.guided_songs(game, frozen["teacher"], scene, noise)


def regression_loss(
    student: Params, config: Distill, networks: Networks, scene: Scene, pair: Pair, key: Key
) -> tuple[Array, Metrics]:
    """Averages the squared velocity error of the student on the lines between noise and song."""
    (noise, song), (shift_key, step_key) = pair, jax.random.split(key)
    shift = distill.draw_shift(shift_key, noise.shape[:1], config.shift_law)
    count = max(distill.step_counts(config.step_law))
    even = 1 - jax.random.randint(step_key, shift.shape, 0, count) / count
    t = timesteps.shift_times(even, shift)
    errors = scene_lib.velocity_errors(networks, student, scene, song, noise, t)
    loss = losses.masked_mean(errors, scene.frame_mask)
    return loss, {"loss/regression": loss}


def regress(
    game: Game, state: TrainState, frozen: Params, scene: Scene, pair: Pair, index: Array
) -> tuple[TrainState, Metrics]:
    """Fits the student to the pairs, for the `index`-th time in this iteration."""
    config, key = game.config, state_lib.step_key(state, 100 + index)
    given = {"config": config, "networks": game.networks, "scene": scene}
    loss = functools.partial(regression_loss, **given, pair=pair, key=key)
    return updates.update(config, state, "student", loss, base=frozen["teacher"], rule="warmup")
