"""Negative-aware fine-tuning: rewards taught by flow matching, without any probability.

Songs x0 are sampled from the old velocity v_old by any sampler, and each is better than its group
with probability r. The new velocity v enters two implicit ones, on either side of the old,

    v+ = (1 - beta) v_old + beta v,        v- = (1 + beta) v_old - beta v                       (1)
    L  = r |data(v+) - x0|^2 + (1 - r) |data(v-) - x0|^2                                        (2)

of which the first is fitted to what was good and the second to what was not. In expectation (2) is
lowest at

    v* = v_old + (2 / beta) E[r | x_t] (v_good - v_old)                                         (3)

with v_good the velocity of songs weighed by r: the direction in which guidance between good songs
and all would go. For beta = 1 the first term is plain flow matching on good songs.

Source: DiffusionNFT, arXiv:2509.16117, and its code, which divides each square by the mean absolute
error of its data estimate, without gradient, so that all noise levels count alike.
"""

import jax
import jax.numpy as jnp

from acestep_jax.ops import flow, losses
from acestep_jax.typing import Array


def optimality(advantage: Array, limit: float = 5.0) -> Array:
    """Turns advantages into probabilities of being good: clip(A / limit, -1, 1) / 2 + 1 / 2."""
    return jnp.clip(advantage / limit, -1.0, 1.0) / 2 + 0.5


def implicit(velocity: Array, old: Array, beta: float) -> tuple[Array, Array]:
    """Evaluates (1): the velocities fitted to good and to bad songs; no gradient to the old."""
    old = jax.lax.stop_gradient(old)
    return (1 - beta) * old + beta * velocity, (1 + beta) * old - beta * velocity


def contrast(
    velocity: Array,
    old: Array,
    x_t: Array,
    t: Array,
    data: Array,
    good: Array,
    *,
    beta: float = 1.0,
    normalise: bool = True,
    frame_mask: Array | None = None,
) -> Array:
    """Evaluates (2) of every song, [B].

    Args:
      velocity, old: new and old velocity at x_t [B, T, C].
      x_t: `data` noised to t.
      t: [B].
      data: the songs [B, T, C].
      good: r [B].
      beta: distance of the implicit velocities from the old one.
      normalise: divide each square by the mean absolute error of its data estimate, at least 1e-5.
      frame_mask: frames that count [B, T].
    """

    def error(v: Array) -> Array:
        off = flow.data_from_velocity(x_t, v, t) - data
        square = losses.masked_mean(jnp.mean(off**2, axis=-1), frame_mask, axis=-1)
        if not normalise:
            return square
        size = losses.masked_mean(jnp.mean(jnp.abs(off), axis=-1), frame_mask, axis=-1)
        return square / jnp.maximum(jax.lax.stop_gradient(size), 1e-5)

    plus, minus = implicit(velocity, old, beta)
    return good * error(plus) + (1 - good) * error(minus)


def old_decay(step: Array, schedule: str) -> Array:
    """Gives the decay d of the old policy, v_old <- d v_old + (1 - d) v, after step `step`.

    Args:
      step: updates done.
      schedule: "copy" (d = 0: on-policy), "slow" (min(0.001 step, 0.5)), or "late" (0 until step
        75, then 0.0075 (step - 75), at most 0.999); the release's three.

    Raises:
      ValueError: for another schedule.
    """
    step = jnp.asarray(step, jnp.float32)
    if schedule == "copy":
        return jnp.zeros_like(step)
    if schedule == "slow":
        return jnp.minimum(0.001 * step, 0.5)
    if schedule == "late":
        return jnp.clip(0.0075 * (step - 75), 0.0, 0.999)
    raise ValueError(f"unknown schedule {schedule!r}; use copy, slow or late.")
