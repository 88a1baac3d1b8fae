"""Guidance: how two predictions, with and without the condition, become one.

    plain       v = v_u + g (v_c - v_u)                                                        (1)
    projected   d = v_c - v_u + m d_before,  shortened to length r,
                v = v_c + (g - 1) (d - its part along v_c)                                     (2)
    angular     turn the data estimate away from the unconditional one by an angle that g scales,
                v = (x - turned) / t                                                           (3)

Rules work in float32 and on any batch. Where lengths are taken over frames, `frame_mask` leaves
padding out, so that an item in a larger bucket is guided as it is alone.
"""

import jax.numpy as jnp

from acestep_jax.ops import flow
from acestep_jax.typing import Array

MOMENTUM = -0.75
"""Of (2): the released value; negative, so that successive differences cancel what they share."""
LONGEST = 2.5
"""Of (2): the released bound on a channel's length over time."""
WIDEST_ANGLE = 3.14 / 6
"""Of (3): the released bound on the turn, with its two digits of pi."""
_EVEN_ANGLE = 1.4142138e-3  # acos(1 - 1e-6): the release bounds the cosine so


def classifier_free(conditional: Array, unconditional: Array, scale: Array | float) -> Array:
    """Extrapolates from no condition past the condition, equation (1).

    Args:
      conditional: v_c, the velocity under the condition.
      unconditional: v_u, the velocity under the null condition.
      scale: 1 gives v_c, 0 gives v_u; more sharpens. For two Gaussians of equal variance the
        guided law is the Gaussian of mean mu_u + scale (mu_c - mu_u).

    Source: Ho & Salimans 2022, arXiv:2207.12598, written for velocities.
    """
    return unconditional + scale * (conditional - unconditional)


def projected(
    momentum: Array,
    conditional: Array,
    unconditional: Array,
    scale: Array | float,
    *,
    decay: float = MOMENTUM,
    longest: float = LONGEST,
    frame_mask: Array | None = None,
) -> tuple[Array, Array]:
    """Guides across the conditional prediction and not along it, equation (2).

    Lengths and the projection are taken over time, one a channel. What is remembered is the
    difference before it is shortened.

    Args:
      momentum: [B, T, C], what the step before returned; zeros at first.
      conditional, unconditional: [B, T, C].
      scale: g.
      decay: m, how much of the momentum is kept.
      longest: r.
      frame_mask: [B, T], true on an item's own frames.

    Returns:
      The new momentum and the velocity.

    Source: Sadat et al. 2024, arXiv:2410.02416 (adaptive projected guidance), with the release's
      axis, which is time, and constants. The release projects in float64.
    """
    difference = _masked(conditional - unconditional + decay * momentum, frame_mask)
    along = _masked(conditional, frame_mask)
    shortened = difference * jnp.minimum(1.0, longest / _length(difference, axis=1))
    unit = along / jnp.maximum(_length(along, axis=1), 1e-12)
    across = shortened - jnp.sum(shortened * unit, axis=1, keepdims=True) * unit
    return difference, conditional + (scale - 1) * across


def angular(
    x_t: Array,
    conditional: Array,
    unconditional: Array,
    t: Array,
    scale: Array | float,
    *,
    widest: float | None = WIDEST_ANGLE,
    keep_length: bool = False,
    frame_mask: Array | None = None,
) -> Array:
    """Turns each frame's data estimate away from the unconditional one, equation (3).

    Args:
      x_t: [B, T, C], the state.
      conditional, unconditional: [B, T, C] velocities.
      t: scalar or [B], above 0.
      scale: the turn is (scale - 1) times the angle between the two estimates.
      widest: bound on the turn in radians; None sets none.
      keep_length: rescale every channel over time to its length before the turn.
      frame_mask: [B, T], for `keep_length`.

    Source: the release's "adg"; with `keep_length` and a bound of 3.14 / 3 its "adg_w_norm",
      without a bound its "adg_wo_clip". Its first form fails for more than one item; this does not.
    """
    weight = jnp.maximum(scale - 1, 0.0) + 1e-3
    guided = flow.data_from_velocity(x_t, conditional, t)
    plain = flow.data_from_velocity(x_t, unconditional, t)
    angle = _angle(guided, plain)
    turn = weight * angle
    if widest is not None:
        turn = jnp.clip(turn, -widest, widest)
    apart = guided - plain
    share = jnp.sum(apart * plain, axis=-1, keepdims=True)
    across = apart - share / (jnp.sum(plain**2, axis=-1, keepdims=True) + 1e-8) * plain
    # for angles near 0 the ratio of sines is the ratio of angles
    ratio = jnp.where(jnp.sin(angle) > 1e-3, jnp.sin(turn) / jnp.sin(angle), weight)
    turned = jnp.cos(turn) * guided + ratio * across
    if keep_length:
        before, after = (_length(_masked(x, frame_mask), axis=1) for x in (guided, turned))
        turned = turned * before / jnp.maximum(after, 1e-12)
    return (x_t - turned) / flow.broadcast_time(t, x_t)


def _angle(left: Array, right: Array) -> Array:
    """Measures the angle between frames, [B, T, 1], accurately near 0, where acos is not."""
    left, right = (x / jnp.maximum(_length(x, axis=-1), 1e-8) for x in (left, right))
    angle = 2 * jnp.arctan2(_length(left - right, axis=-1), _length(left + right, axis=-1))
    return jnp.clip(angle, _EVEN_ANGLE, jnp.pi - _EVEN_ANGLE)


def _length(x: Array, axis: int) -> Array:
    return jnp.sqrt(jnp.sum(x**2, axis=axis, keepdims=True))


def _masked(x: Array, frame_mask: Array | None) -> Array:
    return x if frame_mask is None else jnp.where(frame_mask[..., None], x, 0.0)
