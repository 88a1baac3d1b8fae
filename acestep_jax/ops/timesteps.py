"""Where on the path to be: sampling grids, their warp, and the law of training times.

A sampler with N steps visits t_i = shift_s(1 - i / N), i = 0 .. N, and so ends at 0. Shifting by
s > 1 spends more steps near noise, where structure is decided. Warps compose by multiplication:
shift_s(shift_r(t)) = shift_{s r}(t), so the inverse of s is 1 / s.

Training draws t from the law of the release: the *larger* of two logit-normal draws, because the
released forward keeps the pair (t, r) of a MeanFlow objective and then sets r = t.
"""

import fractions
import types
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.typing import Array, Key

TIME_LAWS = ("max2", "single", "uniform", "turbo")
"""Laws that `sample_times` knows."""


def shift_times(t: Array, shift: Array | float) -> Array:
    """Warps flow times towards noise: t' = s t / (1 + (s - 1) t).

    Args:
      t: flow times in [0, 1], where 1 is noise.
      shift: s > 0. One leaves the grid alone; three spends more steps near noise. An array may be
        given, of t's shape, for a shift an item.

    Returns:
      Warped times of the same shape and order; 0 and 1 stay fixed.

    Raises:
      ValueError: if `shift` is a number and not positive (a traced one cannot be checked).

    Source: Esser et al. 2024, arXiv:2403.03206, on resolution-dependent shifting.
    """
    if isinstance(shift, int | float) and shift <= 0:
        raise ValueError(f"shift must be positive, got {shift}; use 1.0 to leave times unchanged.")
    return shift * t / (1 + (shift - 1) * t)


def time_grid(num_steps: int, shift: Array | float = 1.0) -> Array:
    """Lays out a sampler's times: t_i = shift_s(1 - i / N) for i = 0 .. N.

    Args:
      num_steps: N, network evaluations of a first-order solver.
      shift: a number, or [B] for a grid an item.

    Returns:
      [N + 1] decreasing times from 1 to 0, or [N + 1, B] when `shift` is [B]; float32 (float64
      under `jax.enable_x64`).

    Raises:
      ValueError: if `num_steps` is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    even = np.linspace(1.0, 0.0, num_steps + 1)
    if isinstance(shift, int | float):  # exact in float64, rounded once
        return jnp.asarray(shift_times(even, shift))
    shift = jnp.asarray(shift)
    even = jnp.asarray(even, shift.dtype).reshape((-1,) + (1,) * shift.ndim)
    return shift_times(even, shift[None])


def padded_time_grid(num_steps: Array, max_steps: int, shift: Array | float = 1.0) -> Array:
    """Lays out `time_grid` for a step count known only on the device.

    Args:
      num_steps: N, a traced integer scalar, at most `max_steps`.
      max_steps: the static length to pad to.
      shift: a number, or [B] for a grid an item.

    Returns:
      [max_steps + 1] or [max_steps + 1, B]; entries past N are 0, where a step does nothing.
    """
    even = jnp.maximum(0.0, 1.0 - jnp.arange(max_steps + 1) / num_steps)
    shift = jnp.asarray(shift, even.dtype)
    even = even.reshape((-1,) + (1,) * shift.ndim)
    return shift_times(even, shift[None])


def sample_times(
    key: Key, shape: Sequence[int], law: str = "max2", mean: float = -0.4, std: float = 1.0
) -> Array:
    """Draws training times in (0, 1), always in float32.

    Args:
      key: a random key.
      shape: shape of the draw, usually [B].
      law: "max2", the larger of two sigmoid(N(mean, std^2)) draws, is what the released forward
        does (t median 0.536 with its constants); "single" is one such draw (median 0.401);
        "uniform" and "turbo" ignore `mean` and `std`; the latter draws one of the eight times that
        the released turbo model is sampled at with shift 3, as the release's adapter trainer does.
      mean: time_logit_mean, the released timestep_mu.
      std: time_logit_std, the released timestep_sigma.

    Raises:
      ValueError: if `law` is unknown.

    Source: the forward of the released model. It draws in the model's dtype, which quantises t
    under bfloat16; here it is never coarser than float32.
    """
    if law == "uniform":
        return jax.random.uniform(key, shape, jnp.float32)
    if law == "single":
        return jax.nn.sigmoid(mean + std * jax.random.normal(key, shape, jnp.float32))
    if law == "turbo":
        return jax.random.choice(key, jnp.asarray(TURBO_TIMES[3], jnp.float32), shape)
    if law == "max2":
        draws = jax.random.normal(key, (2, *shape), jnp.float32)
        return jax.nn.sigmoid(mean + std * jnp.max(draws, axis=0))
    raise ValueError(f"unknown time law {law!r}; choose one of {', '.join(TIME_LAWS)}.")


def levels(num_steps: int, shifts: Sequence[int] = (1, 2, 3)) -> tuple[fractions.Fraction, ...]:
    """Lists the distinct noise levels that N-step grids of these shifts visit, as exact fractions.

    Descending, without the final 0. Eight steps at shifts 1, 2, 3 visit twenty levels: the only
    ones the released turbo student was trained on.
    """
    distinct = {
        shift * t / (1 + (shift - 1) * t)
        for shift in shifts
        for t in (1 - fractions.Fraction(i, num_steps) for i in range(num_steps))
    }
    return tuple(sorted(distinct, reverse=True))


TURBO_TIMES: Mapping[int, tuple[float, ...]] = types.MappingProxyType(
    {shift: tuple(float(t) for t in levels(8, (shift,))) for shift in (1, 2, 3)}
)
"""The eight times of the released turbo sampler for shift 1, 2 and 3; the final 0 is implied."""
