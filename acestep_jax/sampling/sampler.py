"""The compiled door to generation: conditions and noise in, latents out.

    sample = make_sampler(networks.dit, guidance_scale=1.0)
    latents = sample(params, noise, conditions..., times)

One compiled program serves every time grid of the same number of steps (the grid is an argument)
and every duration of the same bucket (`sampling.buckets`). Cross-attention keys and values depend
on the condition alone and are computed once a sample; the unconditional branch sees one row of the
null embedding, since identical rows attend to the same value whatever their number.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from acestep_jax.nn.dit import DiT
from acestep_jax.ops import guidance, solvers
from acestep_jax.ops.solvers import StepFn, VelocityFn
from acestep_jax.sampling import flow
from acestep_jax.typing import Array, Params

Sampler = Callable[..., Array]


def conditional_velocity(
    dit: DiT,
    params: Params,
    tokens: Array,
    context: Array,
    *,
    condition_mask: Array | None = None,
    frame_mask: Array | None = None,
) -> VelocityFn:
    """Closes the DiT over one set of conditions.

    Args:
      dit: the network.
      params: its parameters.
      tokens: [B, L, D] (or [1, 1, D], the null embedding, which serves every item).
      context: [B, T, 2C].
      condition_mask: [B, L]; None lets padding be attended, as the release does.
      frame_mask: [B, T], true on an item's own frames; None as above.

    Returns:
      velocity(x_t [B, T, C], t scalar or [B]) -> [B, T, C]. Keys and values of the condition are
      already computed.
    """
    variables = {"params": params}
    cross = dit.apply(variables, tokens, condition_mask, method="project_condition")

    def velocity(x_t: Array, t: Array) -> Array:
        times = jnp.broadcast_to(t, x_t.shape[:1])
        return dit.apply(variables, x_t, times, context, cross, frame_mask=frame_mask)

    return velocity


def guided_velocity(conditional: VelocityFn, unconditional: VelocityFn, scale: float) -> VelocityFn:
    """Combines two fields by classifier-free guidance: v_u + scale (v_c - v_u)."""

    def velocity(x_t: Array, t: Array) -> Array:
        return guidance.classifier_free(conditional(x_t, t), unconditional(x_t, t), scale)

    return velocity


@functools.lru_cache(maxsize=64)
def make_sampler(dit: DiT, *, guidance_scale: float = 1.0, step: StepFn = solvers.euler) -> Sampler:
    """Compiles generation with one network, guidance strength and solver.

    Args:
      dit: the network (hashable, so the compiled program is shared between callers).
      guidance_scale: 1 evaluates the conditional branch alone.
      step: a solver from `ops.solvers`.

    Returns:
      sample(params, noise, tokens, condition_mask, context, frame_mask, times, per_step=None,
      null=None) -> latents [B, T, C]. `params` are the DiT's; `null` is the null embedding
      [1, 1, D], needed when guiding; `noise` is donated. Masks may be None (see
      `conditional_velocity`).
    """

    @functools.partial(jax.jit, donate_argnames=("noise",))
    def sample(
        params: Params,
        noise: Array,
        tokens: Array,
        condition_mask: Array | None,
        context: Array,
        frame_mask: Array | None,
        times: Array,
        per_step: Array | None = None,
        null: Array | None = None,
    ) -> Array:
        field = functools.partial(
            conditional_velocity, dit, params, context=context, frame_mask=frame_mask
        )
        velocity = field(tokens, condition_mask=condition_mask)
        if guidance_scale != 1.0:
            if null is None:
                raise ValueError(
                    f"guidance_scale={guidance_scale} needs the null embedding; pass "
                    "null=params['null_condition'], or guidance_scale=1 for distilled models."
                )
            velocity = guided_velocity(velocity, field(null), guidance_scale)
        return flow.integrate(velocity, noise, times, step, per_step)

    return sample
