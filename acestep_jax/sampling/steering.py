"""What bends a trajectory on its way from noise to data: guidance, corrections, edits.

`Steering` is a pytree: names of rules are static, so a program is compiled for each combination;
numbers are traced, so their values share it. Everything is off by default.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from acestep_jax.ops import corrections, editing, flow, guidance
from acestep_jax.ops.corrections import Wavelet
from acestep_jax.typing import Array

Rule: TypeAlias = Literal["none", "cfg", "apg", "adg", "adg_w_norm", "adg_wo_clip"]
"""Plain, projected and angular guidance, by the release's names."""

_ANGULAR: dict[str, dict[str, Any]] = {
    "adg": {},
    "adg_w_norm": {"widest": 3.14 / 3, "keep_length": True},
    "adg_wo_clip": {"widest": None},
}


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hold:
    """A range to repaint; the rest is held to what it was.

    Attributes:
      edit_mask: [B, T] bool, true on frames to generate.
      source: [B, T, C], what the song was.
      steps: after this many steps from the start the outside is no longer put back.
      ramp: frames of the final cross-fade; None leaves the outside as sampling left it.
    """

    edit_mask: Array
    source: Array
    steps: Array | int = 0
    ramp: Array | int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Steering:
    """How a sampler departs from following one conditional velocity.

    Attributes:
      rule: how the branches with and without condition are combined; "none" evaluates one alone.
      scale: strength of guidance.
      interval: (lowest, highest) level at which to guide; None guides always.
      velocity_limit: see `corrections.limit_velocity`.
      velocity_memory: share of the velocity of the step before that is kept.
      wavelet: which correction of `corrections.wavelet_correction`; by `wavelet_low` and
        `wavelet_high`.
      switch_step: from this step on the second set of conditions applies.
      hold: what is repainted.
    """

    rule: Rule = _static("none")
    scale: Array | float = 1.0
    interval: tuple[Array | float, Array | float] | None = None
    velocity_limit: Array | float | None = None
    velocity_memory: Array | float | None = None
    wavelet: Wavelet = _static("none")
    wavelet_low: Array | float = 0.05
    wavelet_high: Array | float = 0.02
    switch_step: Array | int | None = None
    hold: Hold | None = None


class Memory(NamedTuple):
    """What a trajectory remembers from step to step, [B, T, C] each; None where nothing needs it.

    Attributes:
      momentum: of projected guidance.
      velocity: of the step before; not finite before the first.
    """

    momentum: Array | None
    velocity: Array | None


def start(steering: Steering, noise: Array) -> Memory:
    """Makes the memory before the first step."""
    return Memory(
        momentum=jnp.zeros_like(noise) if steering.rule == "apg" else None,
        velocity=None if steering.velocity_memory is None else jnp.full_like(noise, jnp.inf),
    )


def combine(
    steering: Steering,
    memory: Memory,
    branches: tuple[Array, Array],
    x_t: Array,
    t: Array,
    frame_mask: Array | None,
) -> tuple[Array, Memory]:
    """Guides: (with condition, without) -> velocity, by the rule."""
    scale = steering.scale
    if steering.rule == "cfg":
        return guidance.classifier_free(*branches, scale), memory
    if steering.rule == "apg":
        momentum, velocity = guidance.projected(
            memory.momentum, *branches, scale, frame_mask=frame_mask
        )
        return velocity, memory._replace(momentum=momentum)
    options = _ANGULAR[steering.rule]
    return guidance.angular(x_t, *branches, t, scale, frame_mask=frame_mask, **options), memory


def correct_velocity(
    steering: Steering, memory: Memory, velocity: Array, x_t: Array, frame_mask: Array | None
) -> tuple[Array, Memory]:
    """Shortens a velocity, and averages it with the step before's."""
    if steering.velocity_limit is not None:
        limit = steering.velocity_limit
        velocity = corrections.limit_velocity(velocity, x_t, limit, frame_mask)
    if steering.velocity_memory is not None:
        share = steering.velocity_memory
        mixed = (1 - share) * velocity + share * memory.velocity
        velocity = jnp.where(jnp.isinf(memory.velocity), velocity, mixed)
        memory = memory._replace(velocity=velocity)
    return velocity, memory


class Step(NamedTuple):
    """A step that was taken: from x_t at t to t_next, number `index`, by `velocity`."""

    index: Array
    x_t: Array
    t: Array
    t_next: Array
    velocity: Array


def correct_state(
    steering: Steering, step: Step, x_next: Array, noise: Array, frame_mask: Array | None
) -> Array:
    """Amplifies a band of the step, then puts back what is not to be repainted."""
    if steering.wavelet != "none":
        x_next = corrections.wavelet_correction(
            x_next,
            flow.data_from_velocity(step.x_t, step.velocity, step.t),
            step.t,
            mode=steering.wavelet,
            low=steering.wavelet_low,
            high=steering.wavelet_high,
            frame_mask=frame_mask,
        )
    if steering.hold is not None:
        hold = steering.hold
        held = editing.hold_outside(x_next, hold.edit_mask, hold.source, noise, step.t_next)
        x_next = jnp.where(step.index < hold.steps, held, x_next)
    return x_next


def finish(steering: Steering, latents: Array) -> Array:
    """Cross-fades a finished repaint into its source."""
    hold = steering.hold
    if hold is None or hold.ramp is None:
        return latents
    return editing.crossfade(latents, hold.source, hold.edit_mask, hold.ramp)
