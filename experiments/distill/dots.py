"""A plot of estimates with their intervals, as one SVG file that needs nothing else."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from acestep_jax.training import report

_LEFT, _WIDTH, _LINE, _TOP = 300, 720, 20, 34


class Row(NamedTuple):
    """A name, an estimate and its interval."""

    name: str
    value: float
    low: float
    high: float


def dot_plot(title: str, rows: Sequence[Row]) -> str:
    """Draws a row a line: a dot, and a bar from low to high; 1 is marked where it is in sight."""
    ticks = report.ticks(min(0.0, *(r.low for r in rows)), max(r.high for r in rows))
    low, high = min(ticks[0], *(r.low for r in rows)), max(ticks[-1], *(r.high for r in rows))
    bottom = _TOP + _LINE * len(rows)

    def across(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * (x - low) / ((high - low) or 1.0)

    drawn = [f'<text x="8" y="18" font-weight="bold">{html.escape(title)}</text>']
    for tick in ticks:
        shade = "#888" if tick == 1 else "#ddd"
        x = f"{across(tick):.1f}"
        drawn += [
            f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom}" stroke="{shade}"/>',
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{report.number(tick)}</text>',
        ]
    for i, row in enumerate(rows):
        y = _TOP + _LINE * i + 6
        drawn += [
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{html.escape(row.name)}</text>',
            f'<line x1="{across(row.low):.1f}" x2="{across(row.high):.1f}" y1="{y}" y2="{y}" '
            'stroke="#26c" stroke-width="2"/>',
            f'<circle cx="{across(row.value):.1f}" cy="{y}" r="4" fill="#26c"/>',
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom + 26}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )
