"""Average velocities: a network that knows where a whole interval leads, not only the next moment.

Along the flow dx/ds = v(x_s, s), the average velocity over [r, t] is

    u(x_t, t, r) = (x_t - x_r) / (t - r)                                                  (1)

so that one evaluation carries x_t to x_r, and u(x, t, t) = v(x, t). Differentiating
(t - r) u = x_t - x_r along the flow gives the identity that training enforces:

    u = v - (t - r) du/dt,      du/dt = v . grad_x u + d_t u                              (2)

with the straight path's noise - data for v, and du/dt, a forward-mode derivative, not
differentiated again. The derivative grows where t is embedded with high frequencies; (3) keeps the
gradient in hand:

    loss = |u - target|^2 / (|u - target|^2 + c)^p,   the denominator a constant          (3)

Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447. The
released model keeps a second time embedding for t - r, and a share of samples with r = t, from such
a training; every released variant has it switched off.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from acestep_jax.ops import flow
from acestep_jax.typing import Array, Key

AverageFn = Callable[[Array, Array, Array], Array]
"""(x_t [B, T, C], t [B], r [B]) -> average velocity over [r, t], [B, T, C]."""


def sample_time_pairs(
    key: Key, shape: Sequence[int], equal_share: float = 0.5, mean: float = -0.4, std: float = 1.0
) -> tuple[Array, Array]:
    """Draws t >= r: the larger and the smaller of two sigmoid(N(mean, std^2)) draws, float32.

    Args:
      key: a random key.
      shape: shape of each, usually [B].
      equal_share: chance that r is set to t, which trains the velocity itself; 0.5 is the release's
        `data_proportion`. With 1, t has the law "max2" of `timesteps.sample_times`.
      mean, std: the released timestep_mu and timestep_sigma.

    Raises:
      ValueError: if `equal_share` is no probability.
    """
    if not 0 <= equal_share <= 1:
        raise ValueError(f"equal_share={equal_share} must lie in [0, 1].")
    draw_key, equal_key = jax.random.split(key)
    draws = jax.nn.sigmoid(mean + std * jax.random.normal(draw_key, (2, *shape), jnp.float32))
    t, r = jnp.max(draws, axis=0), jnp.min(draws, axis=0)
    equal = jax.random.bernoulli(equal_key, equal_share, shape)
    return t, jnp.where(equal, t, r)


def predict_and_target(
    average: AverageFn, x_t: Array, t: Array, r: Array, velocity: Array
) -> tuple[Array, Array]:
    """Evaluates u and the right side of (2): target = v - (t - r) du/dt, a constant.

    Args:
      average: u; must be differentiable forwards (attention without a hand-written gradient).
      x_t: [B, T, C].
      t, r: [B], t >= r; where they are equal the target is the velocity.
      velocity: dx_t/dt, [B, T, C].

    Returns:
      u [B, T, C], through which gradients flow, and the target.
    """
    directions = velocity, jnp.ones_like(t), jnp.zeros_like(r)
    predicted, derivative = jax.jvp(average, (x_t, t, r), directions)
    target = velocity - flow.broadcast_time(t - r, x_t) * derivative
    return predicted, jax.lax.stop_gradient(target)


def adaptive_weight(error: Array, power: float = 1.0, offset: float = 1e-3) -> Array:
    """Computes the constant 1 / (error + offset)^power of (3), one for each example.

    Args:
      error: mean squared error of each example, [B].
      power: p; 0 leaves the errors as they are, 1 makes every example count alike.
      offset: c.
    """
    return jax.lax.stop_gradient((error + offset) ** -power)


def step(
    average: AverageFn, x_t: Array, t: Array, t_next: Array, fresh: Array | None = None
) -> Array:
    """Follows the average velocity: x_r = x_t - (t - r) u(x_t, t, r), exact if u is.

    A solver for `sampling.flow.integrate`, which hands it `average` in the place of a velocity.
    """
    del fresh
    gap = flow.broadcast_time(t - t_next, x_t)
    return x_t - gap * average(x_t, t, t_next)
