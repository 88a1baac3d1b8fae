"""How a song is sampled: steps, solver, guidance, and the release's further options.

Apart from the request, since songs of one batch share it. Strengths are traced by the compiled
sampler, so that another value costs no compilation.
"""

import dataclasses
import itertools
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
        problems = []
        if not 1 <= self.steps <= 1000:
            problems.append(f"steps={self.steps}; use 1 to 1000")
        if not 0 < self.shift <= 100:
            problems.append(f"shift={self.shift}; use a positive number, 1 leaves the grid alone")
        if self.times and not _falls(self.times):
            problems.append(f"times={self.times}; levels fall from at most 1 to 0")
        if self.solver not in ("euler", "heun", "sde", "sde_even"):
            problems.append(f"solver={self.solver!r}; use euler, heun, sde or sde_even")
        if not 1 <= self.guidance <= 100:
            problems.append(f"guidance={self.guidance}; use 1 (none) or more")
        if (self.rule == "none") != (self.guidance == 1):
            problems.append("a rule of guidance goes with a strength above 1, and only with one")
        if not 0 <= self.retake <= 1:
            problems.append(f"retake={self.retake}; use 0 to 1")
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


def _falls(times: tuple[float, ...]) -> bool:
    levels = [1.0, *times]
    return all(a >= b >= 0 for a, b in itertools.pairwise(levels)) and times[0] > 0


def default_settings(config: ModelConfig) -> Settings:
    """Gives what the release samples a family of weights with.

    Turbo: 8 steps, shift 3, no guidance. Others: 50 steps and projected guidance of strength 7 on
    an even grid.
    """
    if config.is_turbo:
        return Settings(steps=8, shift=3.0)
    return Settings(steps=50, shift=1.0, rule="apg", guidance=7.0)
