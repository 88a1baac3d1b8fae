"""How a song is sampled: steps, solver, guidance, and the release's further options.

Apart from the request, since songs of one batch share it. Strengths are traced by the compiled
sampler, so that another value costs no compilation.
"""

import dataclasses
import itertools
import numbers
import reprlib
import typing
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.config import ModelConfig
from acestep_jax.ops import solvers, timesteps
from acestep_jax.ops.corrections import Wavelet
from acestep_jax.ops.solvers import StepFn, VelocityFn
from acestep_jax.sampling import flow
from acestep_jax.sampling.steering import Rule, Steering
from acestep_jax.typing import Array, Key

Solver = Literal["euler", "heun", "sde", "sde_even"]


def heun_but_last(
    velocity: VelocityFn, x_t: Array, t: Array, t_next: Array, key: Array | None = None
) -> Array:
    """Corrects every step but the last, as the released turbo sampler does: data has no slope."""
    return jax.lax.cond(
        t_next > 0,
        lambda: solvers.heun(velocity, x_t, t, t_next, key),
        lambda: solvers.euler(velocity, x_t, t, t_next, key),
    )


def renoise_evenly(
    velocity: VelocityFn, x_t: Array, t: Array, t_next: Array, key: Any = None
) -> Array:
    """Re-noises to the even grid, whatever grid the network is queried on.

    So do the released base models: with a shift, state and level disagree. Kept to reproduce them.
    `key` is a pair of the randomness and the next even level.
    """
    key, even_next = key
    return solvers.renoise(velocity, x_t, t, even_next, key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about sampling that is not the song.

    Attributes:
      steps: evaluations of the network (twice as many by "heun").
      shift: warps the grid towards noise; see `ops.timesteps.time_grid`.
      times: levels instead of a grid, falling, the final 0 included or not; () uses the grid.
      solver: "euler" follows the ODE, "heun" to second order; "sde" re-noises the data estimate,
        "sde_even" the way the released base models do.
      rule: guidance, by the release's names; "none" evaluates one branch alone.
      guidance: its strength; 1 is none.
      interval: (lowest, highest) level to guide at; None guides always.
      retake: share of other noise, from `retake_seed`, in the initial noise.
      velocity_limit, velocity_memory, wavelet, wavelet_low, wavelet_high: see `Steering`.
    """

    steps: int = 8
    shift: float = 3.0
    times: tuple[float, ...] = ()
    solver: Solver = "euler"
    rule: Rule = "none"
    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    retake: float = 0.0
    retake_seed: int = 1
    velocity_limit: float | None = None
    velocity_memory: float | None = None
    wavelet: Wavelet = "none"
    wavelet_low: float = 0.05
    wavelet_high: float = 0.02

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems) + ".")

    def grid(self) -> np.ndarray:
        """Lays out the levels [I + 1], the final 0 included."""
        if self.times:
            return np.asarray([*[t for t in self.times if t > 0], 0.0], np.float32)
        return np.asarray(timesteps.time_grid(self.steps, self.shift))

    def step(self) -> StepFn:
        """Chooses the solver's step."""
        steps: dict[str, StepFn] = {
            "euler": solvers.euler,
            "heun": heun_but_last,
            "sde": solvers.renoise,
            "sde_even": renoise_evenly,
        }
        return steps[self.solver]

    def randomness(self, keys: Key, steps: int) -> Any:
        """Derives what the solver draws at each step from the items' keys [B]; None for an ODE."""
        if not self.solver.startswith("sde"):
            return None
        per_step = flow.step_keys(keys, steps)
        if self.solver == "sde":
            return per_step
        return per_step, jnp.linspace(1, 0, steps + 1)[1:]

    def steering(self) -> Steering:
        """Gives the part that the sampler traces."""
        return Steering(
            rule=self.rule,
            scale=self.guidance,
            interval=self.interval,
            velocity_limit=self.velocity_limit,
            velocity_memory=self.velocity_memory,
            wavelet=self.wavelet,
            wavelet_low=self.wavelet_low,
            wavelet_high=self.wavelet_high,
        )


def _problems(settings: Settings) -> Iterator[str]:
    """Lists what is wrong, of whatever type the values are."""
    for name, (low, high) in _WHOLE.items():
        value = getattr(settings, name)
        if not _is_number(value, numbers.Integral) or not low <= value <= high:
            yield f"{name}={show(value)}; use a whole number from {low} to {high}"
    for name, (low, high) in _REAL.items():
        value = getattr(settings, name)
        if value is None and name in _OPTIONAL:
            continue
        if not _is_number(value, numbers.Real) or not low <= value <= high:
            yield f"{name}={show(value)}; use a number from {low:g} to {high:g}"
        elif name == "guidance" and (str(settings.rule) == "none") != (value == 1):
            yield "a rule of guidance goes with a strength above 1, and only with one"
    for name, known in _NAMES.items():
        value = getattr(settings, name)
        if not isinstance(value, str) or value not in known:
            yield f"{name}={show(value)}; use one of {', '.join(known)}"
    if not _falls(settings.times):
        yield f"times={show(settings.times)}; use a tuple of levels that fall from at most 1 to 0"
    if settings.interval is not None and not _is_interval(settings.interval):
        yield f"interval={show(settings.interval)}; use (lowest, highest), within 0 to 1, or None"


_WHOLE = {"steps": (1, 1000), "retake_seed": (0, 2**31)}
_REAL = {
    "shift": (1e-3, 100.0),  # 1 leaves the grid alone
    "guidance": (1.0, 100.0),  # 1 is none
    "retake": (0.0, 1.0),
    "velocity_limit": (1e-6, 1e6),
    "velocity_memory": (0.0, 1.0),
    "wavelet_low": (-10.0, 10.0),
    "wavelet_high": (-10.0, 10.0),
}
_OPTIONAL = ("velocity_limit", "velocity_memory")
_NAMES = {
    "solver": typing.get_args(Solver),
    "rule": typing.get_args(Rule),
    "wavelet": typing.get_args(Wavelet),
}


def show(value: Any, longest: int = 80) -> str:
    """Shows any value in an error, cut where it is long."""
    try:
        text = _shortened.repr(value)
    except (ValueError, RecursionError):  # of numbers with thousands of digits, and nested lists
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}..."


_shortened = reprlib.Repr()
"""Shows a few entries of few levels: a list of YAML that repeats itself may have billions."""
_shortened.maxlevel, _shortened.maxstring, _shortened.maxother = 3, 200, 200
_shortened.maxlong = 5000  # and cut by `show`, which tells that it cut


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _falls(times: Any) -> bool:
    if not isinstance(times, tuple) or not all(_is_number(t, numbers.Real) for t in times):
        return False
    if not times:  # the grid instead
        return True
    levels = [1.0, *times]
    return all(a >= b >= 0 for a, b in itertools.pairwise(levels)) and times[0] > 0


def _is_interval(interval: Any) -> bool:
    if not isinstance(interval, tuple) or len(interval) != 2:
        return False
    real = all(_is_number(level, numbers.Real) for level in interval)
    return real and 0 <= interval[0] <= interval[1] <= 1


def default_settings(config: ModelConfig) -> Settings:
    """Gives what the release samples a family of weights with.

    Turbo: 8 steps, shift 3, no guidance. Others: 50 steps and projected guidance of strength 7 on
    an even grid.
    """
    if config.is_turbo:
        return Settings(steps=8, shift=3.0)
    return Settings(steps=50, shift=1.0, rule="apg", guidance=7.0)
