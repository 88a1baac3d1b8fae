"""Means over seeds, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % points of Student's t by the number of seeds."""


def interval(values: Sequence[float]) -> list[float]:
    """Gives [mean, low, high] at 95 % by Student's t; one seed has no interval."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return [round(mean, 4)] * 3
    half = STUDENT_T[min(count, 5)] * float(np.std(values, ddof=1)) / count**0.5
    return [round(x, 4) for x in (mean, mean - half, mean + half)]


def gather(each: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Adds the mean to the values of every measure: {name: {"each": values, "mean": interval}}."""
    return {name: {"each": list(values), "mean": interval(values)} for name, values in each.items()}
