"""The levels a sample passes through, as the release lays them out for each family of weights.

Turbo weights know twenty levels only, those of the grids that they were distilled on; the base
models take any. Schedules are host arrays [I + 1] that end in 0: their length is static, their
values are arguments of the compiled sampler.
"""

from collections.abc import Sequence

import numpy as np

from acestep_jax.ops import timesteps

DISTILLED_STEPS = 8
"""Steps of the grids that the released turbo models were distilled on, at shifts 1, 2 and 3."""
MAX_GIVEN = 20
"""The release reads no more levels than this from a schedule that is given."""


def distilled_levels() -> np.ndarray:
    """Lists the twenty levels that turbo weights know, falling."""
    return np.asarray(timesteps.levels(DISTILLED_STEPS), np.float32)


def snap_to_distilled(levels: Sequence[float]) -> np.ndarray:
    """Replaces given levels by the nearest that turbo weights know, and ends the schedule in 0.

    Raises:
      ValueError: if no level above 0 is given, or more than the release reads.
    """
    given = np.trim_zeros(np.asarray(levels, np.float32), "b")
    if not 1 <= len(given) <= MAX_GIVEN:
        raise ValueError(f"{len(given)} levels above 0 were given; use 1 to {MAX_GIVEN}.")
    known = distilled_levels()
    nearest = np.argmin(np.abs(known[None] - given[:, None]), axis=1)
    return np.append(known[nearest], np.float32(0))


def start_at(times: np.ndarray, level: float) -> np.ndarray:
    """Leaves out what lies before the schedule's value nearest to `level` (a cover's noise).

    Args:
      times: [I + 1], falling to 0.
      level: 1 keeps all.
    """
    return times[int(np.argmin(np.abs(times[:-1] - level))) :]
