"""The compiled door to generation: conditions and noise in, latents out.

    sample = make_sampler(networks.dit)
    latents = sample(params, noise, tokens, mask, context, frame_mask, times)

One compiled program serves every time grid of the same number of steps (the grid is an argument),
every strength of its steering, and every duration of the same bucket (`sampling.buckets`).
Cross-attention keys and values depend on the condition alone and are computed once a sample; the
unconditional branch sees one row of the null embedding, since identical rows attend to the same
value whatever their number.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.nn.dit import DiT
from acestep_jax.ops import guidance, solvers
from acestep_jax.ops.solvers import StepFn, VelocityFn
from acestep_jax.sampling import steering as steering_lib
from acestep_jax.sampling.steering import Memory, Steering
from acestep_jax.typing import Array, Params

Sampler = Callable[..., Array]


class Branch(NamedTuple):
    """One set of conditions, ready for the DiT: projected keys and values, and the context."""

    cross: Any
    context: Array


def _open(dit: DiT, params: Params, frame_mask: Array | None) -> tuple[Callable, Callable]:
    """Gives (tokens, mask) -> keys and values, and (branch, x_t, t) -> velocity, of one DiT."""
    variables = {"params": params}

    def evaluate(branch: Branch, x_t: Array, t: Array) -> Array:
        times = jnp.broadcast_to(t, x_t.shape[:1])
        return dit.apply(variables, x_t, times, branch.context, branch.cross, frame_mask=frame_mask)

    return functools.partial(dit.apply, variables, method="project_condition"), evaluate


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
    project, evaluate = _open(dit, params, frame_mask)
    branch = Branch(project(tokens, condition_mask), context)
    return functools.partial(evaluate, branch)


def guided_velocity(conditional: VelocityFn, unconditional: VelocityFn, scale: float) -> VelocityFn:
    """Combines two fields by classifier-free guidance: v_u + scale (v_c - v_u)."""

    def velocity(x_t: Array, t: Array) -> Array:
        return guidance.classifier_free(conditional(x_t, t), unconditional(x_t, t), scale)

    return velocity


@dataclasses.dataclass(frozen=True)
class Field:
    """The DiT over one or two sets of conditions, steered.

    Attributes:
      evaluate: (branch, x_t, t) -> velocity.
      first, second: sets of conditions; the second takes over at `steering.switch_step`.
      null: projected null embedding, or None where nothing guides.
      steering: what bends the trajectory.
      frame_mask: [B, T], or None.
    """

    evaluate: Callable[[Branch, Array, Array], Array]
    first: Branch
    second: Branch | None
    null: Any
    steering: Steering
    frame_mask: Array | None

    def branch(self, index: Array) -> Branch:
        """Chooses the conditions of step `index`."""
        if self.second is None:
            return self.first
        later = index >= self.steering.switch_step
        return jax.tree.map(lambda a, b: jnp.where(later, b, a), self.first, self.second)

    def slope(self, memory: Memory, index: Array, x_t: Array, t: Array) -> tuple[Array, Memory]:
        """Evaluates the velocity of step `index`: guided, then corrected."""
        velocity, memory = self.guided(self.steering, memory, index, x_t, t)
        return steering_lib.correct_velocity(self.steering, memory, velocity, x_t, self.frame_mask)

    def plain(self, index: Array, x: Array, t: Array) -> Array:
        """Evaluates the velocity within a step, where rules that remember stand aside for (1)."""
        rule = "none" if self.steering.rule == "none" else "cfg"
        steering = dataclasses.replace(self.steering, rule=rule)
        return self.guided(steering, Memory(None, None), index, x, t)[0]

    def guided(
        self, steering: Steering, memory: Memory, index: Array, x_t: Array, t: Array
    ) -> tuple[Array, Memory]:
        """Evaluates one branch, or both and combines them."""
        branch = self.branch(index)
        conditional = self.evaluate(branch, x_t, t)
        if steering.rule == "none":
            return conditional, memory

        def guide() -> tuple[Array, Memory]:
            without = self.evaluate(branch._replace(cross=self.null), x_t, t)
            branches = (conditional, without)
            return steering_lib.combine(steering, memory, branches, x_t, t, self.frame_mask)

        if steering.interval is None:
            return guide()
        lowest, highest = steering.interval
        return jax.lax.cond((lowest <= t) & (t <= highest), guide, lambda: (conditional, memory))


def steered_trajectory(
    field: Field,
    noise: Array,
    times: Array,
    step: StepFn = solvers.euler,
    per_step: Array | None = None,
    *,
    keep: bool = False,
) -> tuple[Array, Array | None]:
    """Integrates a steered field from noise to data; as `flow.integrate`, with a memory.

    Args:
      field: what is integrated.
      noise: [B, T, C].
      times: [I + 1], decreasing.
      step: one solver step. Its first evaluation is the step's slope, further ones are plain.
      per_step: randomness of stochastic steps.
      keep: return the state after every step too, before the final cross-fade.

    Returns:
      The finished latents [B, T, C], and states [I, B, T, C] or None.
    """
    times, steering = jnp.asarray(times, jnp.float32), field.steering

    def body(carry: tuple[Array, Memory], interval: tuple) -> tuple:
        x_t, memory = carry
        index, t, t_next, fresh = interval
        slope, memory = field.slope(memory, index, x_t, t)

        def velocity(x: Array, time: Array) -> Array:
            return slope if x is x_t else field.plain(index, x, time)

        taken = steering_lib.Step(index, x_t, t, t_next, slope)
        x_next = step(velocity, x_t, t, t_next, fresh)
        x_next = steering_lib.correct_state(steering, taken, x_next, noise, field.frame_mask)
        return (x_next, memory), x_next if keep else None

    steps = (jnp.arange(len(times) - 1), times[:-1], times[1:], per_step)
    start = (noise, steering_lib.start(steering, noise))
    (latents, _), states = jax.lax.scan(body, start, steps)
    return steering_lib.finish(steering, latents), states


def make_field(
    dit: DiT,
    params: Params,
    tokens: Array,
    condition_mask: Array | None,
    context: Array,
    frame_mask: Array | None,
    *,
    null: Array | None = None,
    steering: Steering | None = None,
    later: tuple[Array, Array | None, Array] | None = None,
) -> Field:
    """Closes the DiT over its conditions, whose keys and values are projected here, once.

    Args:
      dit: the network.
      params: its parameters.
      tokens, condition_mask, context, frame_mask: as in `conditional_velocity`.
      null: [1, 1, D], the null embedding.
      steering: what bends the trajectory.
      later: (tokens, condition_mask, context) of `steering.switch_step`, shaped as the first.

    Raises:
      ValueError: if guidance lacks its null embedding, or a switch its conditions.
    """
    steering = steering or Steering()
    if steering.rule != "none" and null is None:
        raise ValueError(
            f"guidance by {steering.rule!r} needs the null embedding; pass "
            "null=params['null_condition'], or leave guidance out for distilled models."
        )
    if (steering.switch_step is None) != (later is None):
        raise ValueError("switch_step and the later conditions come together, or not at all.")
    project, evaluate = _open(dit, params, frame_mask)
    second = None if later is None else Branch(project(later[0], later[1]), later[2])
    return Field(
        evaluate=evaluate,
        first=Branch(project(tokens, condition_mask), context),
        second=second,
        null=None if null is None else project(null, None),
        steering=steering,
        frame_mask=frame_mask,
    )


@functools.lru_cache(maxsize=64)
def make_sampler(dit: DiT, *, step: StepFn = solvers.euler) -> Sampler:
    """Compiles generation with one network and solver.

    Args:
      dit: the network (hashable, so the compiled program is shared between callers).
      step: a solver from `ops.solvers`.

    Returns:
      sample(params, noise, tokens, condition_mask, context, frame_mask, times, per_step=None,
      **rest) -> latents [B, T, C]. `params` are the DiT's, `noise` is donated, masks may be None,
      `rest` is that of `make_field`: null, steering, later.
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
        **rest: Any,
    ) -> Array:
        field = make_field(dit, params, tokens, condition_mask, context, frame_mask, **rest)
        return steered_trajectory(field, noise, times, step, per_step)[0]

    return sample
