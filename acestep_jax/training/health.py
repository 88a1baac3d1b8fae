"""Whether a distillation is well: its diagnostics against the ranges in which it works.

    findings = health.check(metrics.read_metrics(workdir))
    [finding.warning for finding in findings if finding.warning]

A reading is taken from the last quarter of a run, so that warming up does not count. The ranges of
`discriminator/accuracy` and `gan_over_dm` are those that practice with diffusion GANs has found;
the others say what the terms are for, and are wide: ours, from the runs in BUILD_NOTES.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]
QUARTERS = 4


class Diagnostic(NamedTuple):
    """One number to watch.

    Attributes:
      name: of the metric.
      reading: points -> what is held against the range.
      low, high: the healthy range.
      below, above: what it means to leave it, and what to do.
    """

    name: str
    reading: Callable[[Sequence[Point]], float]
    low: float
    high: float
    below: str
    above: str


class Finding(NamedTuple):
    """A diagnostic and what it read in a run."""

    diagnostic: Diagnostic
    value: float

    @property
    def warning(self) -> str:
        """Says what is wrong, by name; empty if nothing is."""
        name, _, low, high, below, above = self.diagnostic
        if self.value < low:
            return f"{name} is {self.value:.3g}, below {low:g}: {below}"
        if self.value > high:
            return f"{name} is {self.value:.3g}, above {high:g}: {above}"
        return ""


def at_end(points: Sequence[Point]) -> float:
    """Averages the last quarter."""
    return _quarters(points)[-1]


def rise(points: Sequence[Point]) -> float:
    """Divides the average of the last quarter by the lowest of any quarter: 1 if it only fell."""
    means = _quarters(points)
    return means[-1] / max(min(means), 1e-12)


def _quarters(points: Sequence[Point]) -> list[float]:
    values = np.array([value for _, value in points], float)
    parts = np.array_split(values, min(QUARTERS, len(values)))
    return [float(part.mean()) for part in parts]


DIAGNOSTICS = (
    Diagnostic(
        "dm_gap",
        rise,
        1.0,
        1.5,
        "",
        "fake score and teacher part again; raise critic_steps or the fake score's rate.",
    ),
    Diagnostic(
        "fake_over_teacher",
        at_end,
        0.0,
        1.0,
        "",
        "the fake score knows the student's songs no better than the teacher does; raise "
        "critic_steps, its rate, or warmup.critic_steps.",
    ),
    Diagnostic(
        "dm_ca_cosine",
        at_end,
        -0.95,
        0.5,
        "matching undoes guidance as fast as it pulls; the student may stand still.",
        "matching pulls with guidance instead of holding it; check the fake score, lower "
        "guidance_scale.",
    ),
    Diagnostic(
        "ca_over_dm",
        at_end,
        0.02,
        10.0,
        "hardly any guidance is absorbed; raise guidance_scale.",
        "guidance outweighs what should hold it, and drifts; lower guidance_scale or raise "
        "critic_steps.",
    ),
    Diagnostic(
        "channel_std_ratio",
        at_end,
        0.8,
        1.25,
        "songs are flatter than real ones; their loudness and variety shrink.",
        "songs are louder than real ones; lower guidance_scale or raise critic_steps.",
    ),
    Diagnostic(
        "discriminator/accuracy",
        at_end,
        0.55,
        0.8,
        "the discriminator cannot tell; raise its rate or its size.",
        "the discriminator is too strong to teach; lower its rate, raise gan.r1_weight.",
    ),
    Diagnostic(
        "gan_over_dm",
        at_end,
        0.05,
        0.3,
        "the adversary corrects little; raise gan.weight.",
        "the adversary leads; lower gan.weight.",
    ),
)
"""What is watched; metrics that a run does not have are left out."""


def check(series: Mapping[str, Sequence[Point]]) -> list[Finding]:
    """Reads every diagnostic that the run has logged."""
    return [
        Finding(diagnostic, diagnostic.reading(series[diagnostic.name]))
        for diagnostic in DIAGNOSTICS
        if series.get(diagnostic.name)
    ]


def rows(findings: Sequence[Finding]) -> list[list[str | float]]:
    """Gives a table: diagnostic, what it read, the range, and whether it is well."""
    return [
        [
            f"{name}, last quarter over its lowest" if reading is rise else name,
            finding.value,
            f"{low:g} to {high:g}",
            "leaves its range" if finding.warning else "well",
        ]
        for finding in findings
        for name, reading, low, high, *_ in (finding.diagnostic,)
    ]
