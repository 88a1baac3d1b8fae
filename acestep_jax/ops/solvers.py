"""One step of a sampler from t down to t_next. All share one signature, so any loop takes any.

    step(velocity, x_t, t, t_next, key) -> x at t_next

`velocity(x_t, t)` is the field; times are scalars or [B]; `key` feeds steps that draw and is
ignored by those that do not: one key, one key an item [B] (so that an item's noise is its own,
wherever it stands), or the noise itself.

For an affine Gaussian field the two differ in law: Euler gives a state of standard deviation
t + (1 - t) std, re-noising one of sqrt(t^2 + (1 - t)^2 std^2), which is why a few-step student must
train on states of the rule it ships with.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from acestep_jax.ops import flow
from acestep_jax.typing import Array

VelocityFn: TypeAlias = Callable[[Array, Array], Array]
"""(x_t, t) -> velocity, of the shape of x_t."""
StepFn: TypeAlias = Callable[[VelocityFn, Array, Array, Array, Array | None], Array]
"""(velocity, x_t, t, t_next, key) -> the state at t_next."""


def euler(
    velocity: VelocityFn, x_t: Array, t: Array, t_next: Array, key: Array | None = None
) -> Array:
    """Follows the ODE for one step: x' = x - (t - t_next) v(x, t). The released default."""
    del key  # deterministic
    return x_t - flow.broadcast_time(t - t_next, x_t) * velocity(x_t, t)


def heun(
    velocity: VelocityFn, x_t: Array, t: Array, t_next: Array, key: Array | None = None
) -> Array:
    """Averages the slopes at both ends of the step: second order, two evaluations."""
    slope = velocity(x_t, t)
    ahead = x_t - flow.broadcast_time(t - t_next, x_t) * slope
    mean = (slope + velocity(ahead, t_next)) / 2
    return euler(lambda *_: mean, x_t, t, t_next, key)


def fresh_noise(source: Array, like: Array) -> Array:
    """Draws standard normal noise of `like`'s shape from one key or one key an item [B].

    With a key an item, an item's noise does not depend on its neighbours. An array of that shape
    passes through: noise that was drawn elsewhere.
    """
    if not jnp.issubdtype(source.dtype, jax.dtypes.prng_key):
        return source.astype(like.dtype)
    if source.ndim == 0:
        return jax.random.normal(source, like.shape, like.dtype)
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(source)


def renoise(
    velocity: VelocityFn, x_t: Array, t: Array, t_next: Array, key: Array | None = None
) -> Array:
    """Jumps to the data estimate and noises it afresh: x' = t_next n + (1 - t_next)(x - t v).

    Raises:
      ValueError: if no randomness is given.

    Source: the "sde" method of the released turbo sampler, whose last step (t_next = 0) adds none.
    """
    if key is None:
        raise ValueError("renoise draws noise at every step: pass a key.")
    data = flow.data_from_velocity(x_t, velocity(x_t, t), t)
    return flow.interpolate(data, fresh_noise(key, x_t), t_next)
