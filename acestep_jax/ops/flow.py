"""The rectified-flow path between data and noise, and what a velocity implies about both.

Convention, everywhere in this codebase: *t = 1 is noise, t = 0 is data, velocity points from data
to noise, sampling walks downwards.*

    x_t   = t noise + (1 - t) data                                                       (1)
    v     = dx_t / dt = noise - data                                                     (2)
    data  = x_t - t v                                                                    (3)
    noise = x_t + (1 - t) v                                                              (4)
    score = -noise / t = -(x_t + (1 - t) v) / t                                          (5)

(3) to (5) hold in expectation given x_t when v is a network's output. Two networks A and B that
see the same x_t therefore differ by `data_A - data_B = t (v_B - v_A)`.

Times are a scalar or one value an item, `[B]`; `broadcast_time` gives them the rank of the state.

Source: Liu et al. 2022, arXiv:2209.03003 (rectified flow); the time axis is ACE-Step's.
"""

import jax.numpy as jnp

from acestep_jax.typing import Array


def broadcast_time(t: Array | float, x: Array) -> Array:
    """Reshapes times so that they multiply `x`: scalar stays, [B] becomes [B, 1, ..., 1].

    Raises:
      ValueError: if `t` is neither a scalar nor one value for each item of `x`.
    """
    t = jnp.asarray(t, x.dtype) if not hasattr(t, "shape") else t
    if t.ndim == 0:
        return t
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"times have shape {t.shape} but the state has {x.shape}; "
            "give a scalar or one time for each of its items."
        )
    return t.reshape(t.shape + (1,) * (x.ndim - 1))


def interpolate(data: Array, noise: Array, t: Array | float) -> Array:
    """Mixes data and noise: x_t = t noise + (1 - t) data."""
    t = broadcast_time(t, data)
    return t * noise + (1 - t) * data


def velocity_target(data: Array, noise: Array) -> Array:
    """Gives the velocity of the straight path: v = noise - data, the same at every t."""
    return noise - data


def data_from_velocity(x_t: Array, velocity: Array, t: Array | float) -> Array:
    """Recovers the data a velocity points away from: data = x_t - t v."""
    return x_t - broadcast_time(t, x_t) * velocity


def noise_from_velocity(x_t: Array, velocity: Array, t: Array | float) -> Array:
    """Recovers the noise a velocity points to: noise = x_t + (1 - t) v."""
    return x_t + (1 - broadcast_time(t, x_t)) * velocity


def velocity_from_data(x_t: Array, data: Array, t: Array | float) -> Array:
    """Turns a data estimate into a velocity: v = (x_t - data) / t, for t > 0."""
    return (x_t - data) / broadcast_time(t, x_t)


def score_from_velocity(x_t: Array, velocity: Array, t: Array | float) -> Array:
    """Turns a velocity into the score of the noised law: score = -(x_t + (1 - t) v) / t, t > 0."""
    return -noise_from_velocity(x_t, velocity, t) / broadcast_time(t, x_t)
