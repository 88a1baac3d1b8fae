"""What comparing one output with its golden value gives."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One comparison: its name, the largest error, and what is allowed (0 for equality)."""

    name: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed; NaN is not."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        return f"{self.name} {self.error:.1e}" if self.allowed or self.error else f"{self.name} ="


def compare(name: str, got: Any, expected: Any, allowed: float = 0.0) -> Outcome:
    """Compares numbers; a difference in shape is infinite."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape:
        return Outcome(f"{name} {got.shape} for {expected.shape}", np.inf, allowed)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - expected))
    return Outcome(name, float(error.max(initial=0.0)), allowed)


def equal(name: str, got: Any, expected: Any) -> Outcome:
    """Compares texts and lists."""
    if got == expected:
        return Outcome(name, 0.0, 0.0)
    return Outcome(f"{name} {got!r} for {expected!r}", np.inf, 0.0)
