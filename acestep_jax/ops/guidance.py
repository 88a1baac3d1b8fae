"""Guidance: how two predictions, with and without the condition, become one.

Every rule is a function of the two velocities. Rules that remember (adaptive projected guidance
keeps a momentum) take and return a state beside them: `state, velocity = rule(state, ...)`.
"""

from acestep_jax.typing import Array


def classifier_free(conditional: Array, unconditional: Array, scale: Array | float) -> Array:
    """Extrapolates from no condition past the condition: v = v_u + scale (v_c - v_u).

    Args:
      conditional: v_c, the velocity under the condition.
      unconditional: v_u, the velocity under the null condition.
      scale: 1 gives v_c, 0 gives v_u; more sharpens. For two Gaussians of equal variance the
        guided law is the Gaussian of mean mu_u + scale (mu_c - mu_u).

    Source: Ho & Salimans 2022, arXiv:2207.12598, written for velocities.
    """
    return unconditional + scale * (conditional - unconditional)
