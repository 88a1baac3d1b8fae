"""A flow as a policy: steps that draw, with the probability of what they drew.

The ODE of a flow draws nothing, so its samples have no policy gradient. Two rules put noise into a
step from t down to t' that leave the law of the states as it is; both are Gaussians N(mean, std^2)
about a mean that is linear in the velocity. With dt = t - t' > 0 and score = -(x + (1 - t) v) / t:

    SDE   mean = x - [v - sigma^2 / 2 score] dt          sigma = a sqrt(t / (1 - t))            (1)
               = x (1 - sigma^2 dt / 2t) - v (1 + sigma^2 (1 - t) / 2t) dt,   std = sigma sqrt(dt)
    CPS   mean = (1 - t') data + sqrt(t'^2 - std^2) noise,   std = t' sin(eta pi / 2)           (2)

where data and noise are those that v points between. (1) has the ODE's marginals as dt -> 0 and
leaves noise of its last step in the result; (2) keeps the share of noise at t' whatever the size of
a step, and its last step draws nothing. At t = 1 sigma is infinite: the next time of the grid
stands for it there, as in public code.

Log-probabilities are means over frames and channels, so that ratios of long songs have the scale of
short ones; they move little, and clips are 1e-4 to 1e-3. All float32: (1) overflows in 16 bits.

Sources: (1) Flow-GRPO, arXiv:2505.05470, in whose time dt < 0; (2) arXiv:2509.05952.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from acestep_jax.ops import flow, losses
from acestep_jax.typing import Array


class Transition(NamedTuple):
    """The Gaussian that a step draws from: mean [B, T, C] and std, a scalar; 0 draws nothing."""

    mean: Array
    std: Array


Rule: TypeAlias = Callable[[Array, Array, Array, Array, float], Transition]
"""(x_t, velocity, t, t_next, strength) -> Transition; times are scalars."""


def sde_sigma(t: Array, t_next: Array, strength: float) -> Array:
    """Gives sigma of (1): strength sqrt(t / (1 - t)), at t = 1 that of the next time."""
    inner = jnp.where(t < 1, t, t_next)
    return strength * jnp.sqrt(inner / (1 - inner))


def sde(x_t: Array, velocity: Array, t: Array, t_next: Array, strength: float) -> Transition:
    """Evaluates (1), in float32.

    Args:
      x_t, velocity: [B, T, C].
      t, t_next: scalars, t > t_next.
      strength: a, 0.7 in Flow-GRPO.
    """
    x_t, velocity = x_t.astype(_wide(x_t)), velocity.astype(_wide(velocity))
    sigma, step = sde_sigma(t, t_next, strength), t - t_next
    keep = 1 - sigma**2 * step / (2 * t)
    mean = x_t * keep - velocity * (1 + sigma**2 * (1 - t) / (2 * t)) * step
    return Transition(mean, sigma * jnp.sqrt(step))


def cps(x_t: Array, velocity: Array, t: Array, t_next: Array, strength: float) -> Transition:
    """Evaluates (2), in float32.

    Args:
      x_t, velocity: [B, T, C].
      t, t_next: scalars.
      strength: eta in [0, 1]: 0 is the ODE, 1 forgets the noise it came with.
    """
    x_t, velocity = x_t.astype(_wide(x_t)), velocity.astype(_wide(velocity))
    std = t_next * math.sin(strength * math.pi / 2)
    data = flow.data_from_velocity(x_t, velocity, t)
    noise = flow.noise_from_velocity(x_t, velocity, t)
    kept = t_next * math.cos(strength * math.pi / 2)  # sqrt(t'^2 - std^2)
    return Transition((1 - t_next) * data + kept * noise, std)


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


RULES: dict[str, Rule] = {"sde": sde, "cps": cps}
"""Rules by name."""


def log_prob(x_next: Array, transition: Transition, frame_mask: Array | None = None) -> Array:
    """Gives the mean log-probability of a frame's channels under a step, [B].

    Args:
      x_next: what was drawn [B, T, C].
      transition: with a positive std.
      frame_mask: frames that count [B, T].
    """
    mean, std = transition
    each = -((x_next - mean) ** 2) / (2 * std**2) - jnp.log(std) - 0.5 * math.log(2 * math.pi)
    return losses.masked_mean(jnp.mean(each, axis=-1), frame_mask, axis=-1)


def divergence(ours: Transition, theirs: Transition, frame_mask: Array | None = None) -> Array:
    """Gives KL(ours || theirs) of steps of one std, exact, as a mean over frames and channels [B].

    (mean - mean')^2 / (2 std^2) with the step's own std, sqrt(dt) included; public code leaves dt
    out, which weighs the steps of a grid otherwise.
    """
    each = jnp.mean((ours.mean - theirs.mean) ** 2, axis=-1) / (2 * ours.std**2)
    return losses.masked_mean(each, frame_mask, axis=-1)


def window_start(step: Array, num_steps: int, width: int, every: int) -> Array:
    """Slides a window of drawn steps from noise to data: its first step, in training step `step`.

    The window moves on by one every `every` training steps, and begins again at the end; the last
    step of the grid is never in it. `every` 0 leaves it at the beginning (MixGRPO,
    arXiv:2507.21802, slides; Flow-GRPO-Fast stays).

    Args:
      step: of training, int scalar.
      num_steps: of the grid (I).
      width: of the window.
      every: training steps at one place.

    Raises:
      ValueError: if the window does not fit before the last step.
    """
    places = num_steps - width
    if places < 1:
        raise ValueError(
            f"a window of {width} steps and a last step without noise need more than {num_steps}."
        )
    if not every:
        return jnp.zeros((), jnp.int32)
    return (step // every) % places


def recentred(log_ratios: Array) -> Array:
    """Subtracts the batch's mean from the log-ratios of every step: [W, B] -> [W, B].

    Their mean is negative, -KL, so that a clip about 1 would cut one side only (GRPO-Guard,
    arXiv:2510.22319). Without gradient through the mean.
    """
    return log_ratios - jax.lax.stop_gradient(jnp.mean(log_ratios, axis=1, keepdims=True))


def draw(rule: str, strength: float) -> Callable[..., Transition]:
    """Gives a rule by its name, at one strength."""
    step = RULES[rule]
    return lambda x_t, velocity, t, t_next: step(x_t, velocity, t, t_next, strength)
