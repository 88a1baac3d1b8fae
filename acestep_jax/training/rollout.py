"""What a few-step student is trained on: the states of its own sampler.

A student must be trained on what its own sampler will show it. Trained on noised real songs instead
and then sampled by the ODE, an eight-step student of Gaussian data ends 1.8 times too wide
(tests/ops/test_distill_grids.py); that rule, `backward="forward"`, is here to be compared with.
"""

import flax.struct
import jax
import jax.numpy as jnp

from acestep_jax.nn.model import Networks
from acestep_jax.ops import distill, flow, solvers, timesteps
from acestep_jax.ops.solvers import StepFn, VelocityFn
from acestep_jax.training import game as game_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.game import Game
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params


@flax.struct.dataclass
class Rollout:
    """What the student's sampler went through; I entries, of which the first N are filled.

    Attributes:
      states: x_k [I, B, T, C].
      data: the data estimate at each, x_k - t_k v [I, B, T, C].
      times: t_k [I, B].
      num_steps: N.
    """

    states: Array
    data: Array
    times: Array
    num_steps: Array

    def draw(self, key: Key) -> tuple[Array, Array, Array]:
        """Draws a step k for each item, uniformly: (x_k, t_k, data estimate)."""
        steps = jax.random.randint(key, self.times.shape[1:], 0, self.num_steps)

        def pick(x: Array) -> Array:
            index = steps.reshape((1, -1) + (1,) * (x.ndim - 2))
            return jnp.take_along_axis(x, index, axis=0)[0]

        return pick(self.states), pick(self.times), pick(self.data)


def roll(game: Game, state: TrainState, frozen: Params, scene: Scene) -> Rollout:
    """Rolls the sampler of a run's student as it is now, under this step's own key."""
    student = game_lib.seat(game, state.params, frozen)["student"]
    return simulate(game.config, game.networks, student, scene, state_lib.step_key(state))


def simulate(
    config: Distill, networks: Networks, student: Params, scene: Scene, key: Key
) -> Rollout:
    """Rolls the student's sampler from noise to its end, keeping every state.

    The step count N is drawn for the batch, so that all devices run as many passes; the shift of
    the grid is drawn for each item.

    Args:
      config: its `step_law`, `shift_law`, and `backward`, the rule from state to state: "ode" and
        "renoise" are the samplers that ship; "forward" noises real songs instead.
      networks: the modules.
      student: DiT parameters.
      scene: conditions and real songs.
      key: a random key.
    """
    shape = scene.real.shape
    shift_key, count_key, noise_key, step_key = jax.random.split(key, 4)
    counts = distill.step_counts(config.step_law)
    num_steps = jax.random.choice(count_key, jnp.array(counts))
    shift = distill.draw_shift(shift_key, shape[:1], config.shift_law)
    times = timesteps.padded_time_grid(num_steps, max(counts), shift)
    velocity = scene_lib.field(networks, student, scene)
    step = _rule(config.backward, scene.real)

    def body(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, states, data = carry
        v = velocity(x, times[i])
        states = states.at[i].set(x)
        data = data.at[i].set(flow.data_from_velocity(x, v, times[i]))
        key = jax.random.fold_in(step_key, i)
        return step(lambda *_: v, x, times[i], times[i + 1], key), states, data

    empty = jnp.zeros((max(counts), *shape))
    carry = (jax.random.normal(noise_key, shape), empty, empty)
    _, states, data = jax.lax.fori_loop(0, num_steps, body, carry)
    return jax.lax.stop_gradient(Rollout(states, data, times[:-1], num_steps))


def _rule(backward: str, real: Array) -> StepFn:
    """Gives the step that leads from one training state to the next."""

    def forward(velocity: VelocityFn, x_t: Array, t: Array, t_next: Array, key: Key) -> Array:
        """Ignores the student: the next state is a real song, noised."""
        return flow.interpolate(real, jax.random.normal(key, real.shape), t_next)

    return {"ode": solvers.euler, "renoise": solvers.renoise, "forward": forward}[backward]
