"""Carries noise to data along a velocity field.

    noise at t = 1  --step-->  x at t_1  --step-->  ...  --step-->  data at t = 0

Three things vary and none of them lives here: the velocity is a function (a network, perhaps
guided), the time grid an array (`ops.timesteps.time_grid`), the step a function (`ops.solvers`).
What remains is one `lax.scan`.
"""

import jax
import jax.numpy as jnp

from acestep_jax.ops import solvers
from acestep_jax.ops.solvers import StepFn, VelocityFn
from acestep_jax.typing import Array, Key


def integrate(
    velocity: VelocityFn,
    noise: Array,
    times: Array,
    step: StepFn = solvers.euler,
    per_step: Array | None = None,
) -> Array:
    """Integrates dx/dt = velocity(x, t) from noise at times[0] to data at times[-1].

    Args:
      velocity: the field, evaluated at a scalar time or at one time an item [B].
      noise: [B, T, C], the state at times[0].
      times: [I + 1], or [I + 1, B] for a grid an item; decreasing, 0 last for finished samples.
      step: one solver step.
      per_step: randomness for stochastic steps, with leading axis I: keys [I] or [I, B] (see
        `step_keys`), or the noise itself [I, B, T, C]. Deterministic steps need none.

    Returns:
      The state at times[-1], [B, T, C].
    """
    state, _ = _scan(velocity, noise, times, step, per_step, keep=False)
    return state


def trajectory(
    velocity: VelocityFn,
    noise: Array,
    times: Array,
    step: StepFn = solvers.euler,
    per_step: Array | None = None,
) -> Array:
    """As `integrate`, and returns the state after every step, [I, B, T, C]."""
    _, states = _scan(velocity, noise, times, step, per_step, keep=True)
    return states


def _scan(
    velocity: VelocityFn,
    noise: Array,
    times: Array,
    step: StepFn,
    per_step: Array | None,
    *,
    keep: bool,
) -> tuple[Array, Array | None]:
    times = jnp.asarray(times, jnp.float32)

    def body(x_t: Array, interval: tuple) -> tuple[Array, Array | None]:
        t, t_next, fresh = interval
        x_next = step(velocity, x_t, t, t_next, fresh)
        return x_next, x_next if keep else None

    return jax.lax.scan(body, noise, (times[:-1], times[1:], per_step))


def item_keys(seeds: Array) -> Key:
    """Makes one key an item from integer seeds [B]: the item's key, wherever it stands."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def initial_noise(keys: Key, num_frames: int, channels: int) -> Array:
    """Draws the noise each item starts from, [B, num_frames, channels].

    An item's noise depends on its own key alone, so it is the same at any batch size and position;
    and a longer draw begins with the shorter one, so padding to a bucket does not change it.
    """
    return jax.vmap(lambda key: jax.random.normal(key, (num_frames, channels)))(keys)


def step_keys(keys: Key, num_steps: int) -> Key:
    """Derives keys [num_steps, B] for a stochastic sampler from the items' keys [B]."""
    # 0 would be the fold of the initial noise in a scheme that splits; start at one for clarity.
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(lambda i: fold(keys, i))(jnp.arange(1, num_steps + 1))
