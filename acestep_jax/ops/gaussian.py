"""Flows whose answers are known: data drawn from N(mean, std^2), each dimension on its own.

Noising keeps a Gaussian a Gaussian, so the best velocity, the path it generates and the error no
network can avoid are all closed forms. Tests and experiments measure networks and solvers against
them. With D(t) = (1 - t)^2 std^2 + t^2, the variance of x_t:

    v*(x, t)   = a(t) (x - (1 - t) mean) - mean,     a(t) = (t - (1 - t) std^2) / D(t)      (1)
    x_r        = (1 - r) mean + sqrt(D(r) / D(t)) (x_t - (1 - t) mean)                      (2)
    E|v - v*|^2 = std^2 / D(t)                                                              (3)

(1) is the conditional expectation of noise - data given x_t; (2) integrates it from t to r.
"""

import jax.numpy as jnp

from acestep_jax.ops import flow
from acestep_jax.typing import Array


def noised_variance(t: Array | float, std: float) -> Array:
    """Gives the variance of x_t: D(t) = (1 - t)^2 std^2 + t^2."""
    t = jnp.asarray(t)
    return (1 - t) ** 2 * std**2 + t**2


def velocity(x_t: Array, t: Array | float, mean: float, std: float) -> Array:
    """Evaluates the optimal velocity: v* = a(t) (x_t - (1 - t) mean) - mean."""
    t = flow.broadcast_time(t, x_t)
    slope = (t - (1 - t) * std**2) / noised_variance(t, std)
    return slope * (x_t - (1 - t) * mean) - mean


def flow_map(x_t: Array, t: Array | float, r: Array | float, mean: float, std: float) -> Array:
    """Carries x_t along the exact flow to time r: scales its deviation by sqrt(D(r) / D(t))."""
    t, r = flow.broadcast_time(t, x_t), flow.broadcast_time(r, x_t)
    scale = jnp.sqrt(noised_variance(r, std) / noised_variance(t, std))
    return (1 - r) * mean + scale * (x_t - (1 - t) * mean)


def irreducible_loss(t: Array | float, std: float) -> Array:
    """Gives the least mean squared velocity error at t, per dimension: std^2 / D(t)."""
    return std**2 / noised_variance(t, std)


def average_velocity(
    x_t: Array, t: Array | float, r: Array | float, mean: float, std: float
) -> Array:
    """Averages the velocity over [r, t], r < t: u = (x_t - x_r) / (t - r), x_r from (2)."""
    gap = flow.broadcast_time(t, x_t) - flow.broadcast_time(r, x_t)
    return (x_t - flow_map(x_t, t, r, mean, std)) / gap
