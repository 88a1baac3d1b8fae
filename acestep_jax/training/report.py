"""Reports to look at and listen to: one HTML file that needs nothing else.

Every function returns a piece of HTML; `write` joins pieces into a page that reads in light and
dark, on a screen and on paper.

    report.write(
        path,
        "Eight steps",
        report.section("Listen", report.players(rows, columns, audio, caption="Same noise a row.")),
        report.section("Losses", report.charts(metrics.read_metrics(workdir))),
    )
"""

import html
import importlib.resources
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from acestep_jax.training import files, media
from acestep_jax.units import SAMPLE_RATE

Point = tuple[float, float]


def write(path: str | pathlib.Path, title: str, *pieces: str, lead: str = "") -> None:
    """Writes the page.

    Args:
      path: the file, usually `report.html` in the run's folder.
      title: of the page.
      pieces: from the functions below.
      lead: one or two sentences under the title.
    """
    folder = importlib.resources.files("acestep_jax.training")
    style = (folder / "report.css").read_text()
    script = (folder / "report.js").read_text()
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>
{style}</style>
<main>
<header><h1>{html.escape(title)}</h1>{text(lead) if lead else ""}</header>
{"".join(pieces)}
</main>
<script>
{script}</script>
</html>
"""
    files.write_atomically(path, page)


def section(title: str, *pieces: str, lead: str = "") -> str:
    """Puts pieces under a heading."""
    body = "".join(pieces)
    return f"<section><h2>{html.escape(title)}</h2>{text(lead) if lead else ''}{body}</section>\n"


def text(words: str) -> str:
    """Writes a paragraph."""
    return f"<p>{html.escape(words)}</p>\n"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | float]],
    *,
    caption: str = "",
    best: Mapping[str, str] | None = None,
) -> str:
    """Writes a table whose first column names the rows.

    Args:
      columns: headings.
      rows: texts and numbers; numbers are shown with four digits.
      caption: what is compared, and how it was measured.
      best: {column: "low" or "high"}, to mark the best number of a column.
    """
    marked = {
        (row, columns.index(name))
        for name, side in (best or {}).items()
        for row in _best_rows([r[columns.index(name)] for r in rows], side)
    }
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th scope=row>{html.escape(str(row[0]))}</th>"
        + "".join(_cell(value, (i, j) in marked) for j, value in enumerate(row[1:], start=1))
        + "</tr>\n"
        for i, row in enumerate(rows)
    )
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f"<figure class=wide><div class=scroll><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>{note}</figure>\n"
    )


def _best_rows(values: Sequence[str | float], side: str) -> list[int]:
    numbers = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if not numbers:
        return []
    wanted = {"low": min, "high": max}[side](numbers)
    return [i for i, value in enumerate(values) if value == wanted]


def _cell(value: str | float, marked: bool) -> str:
    shown = number(value) if isinstance(value, (int, float)) else html.escape(value)
    return f"<td class=best>{shown}</td>" if marked else f"<td>{shown}</td>"


def number(value: float) -> str:
    """Writes a number with four significant digits, and whole numbers whole."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}"


# Sound ----------------------------------------------------------------------------------------


def players(
    rows: Sequence[str],
    columns: Sequence[str],
    audio: Mapping[tuple[int, int], np.ndarray],
    *,
    caption: str = "",
    sample_rate: int = SAMPLE_RATE,
) -> str:
    """Lays sounds out in a grid, each with its spectrogram and a player.

    Args:
      rows: what a row is, usually the prompt.
      columns: what a column is, usually the system.
      audio: {(row, column): [W, channels] in [-1, 1]}. What exceeds full scale is turned down, and
        the label says by how much.
      caption: how the sounds were made.
      sample_rate: of all of them.
    """
    cells = []
    for i, row in enumerate(rows):
        cells.append(f"<h3>{html.escape(row)}</h3>\n<div class=players>")
        cells += [
            _player(columns[j], audio[i, j], sample_rate)
            for j in range(len(columns))
            if (i, j) in audio
        ]
        cells.append("</div>\n")
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure class=wide>{''.join(cells)}{note}</figure>\n"


def _player(label: str, audio: np.ndarray, sample_rate: int) -> str:
    audio, quieter = media.loudest_within_full_scale(np.asarray(audio))
    turned = f" <small>−{quieter:.1f} dB</small>" if quieter >= 0.05 else ""
    name = html.escape(label)
    return (
        f"<div class=player><div class=label>{name}{turned}</div>"
        f'<div class=picture><img alt="Spectrogram of {name}" '
        f'src="{media.spectrogram_uri(audio, sample_rate)}"><i></i></div>'
        f'<audio controls preload=metadata src="{media.audio_uri(audio, sample_rate)}"></audio>'
        "</div>\n"
    )


# Charts ---------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 26


def charts(
    series: Mapping[str, Sequence[Point]],
    *,
    caption: str = "",
    x_label: str = "step",
    log: Sequence[str] = (),
) -> str:
    """Draws one small chart for each series.

    Args:
      series: {name: [(x, y)]}, as `metrics.read_metrics` gives.
      caption: what they show.
      x_label: what x counts.
      log: names with a logarithmic y axis; all their values must be positive.
    """
    drawn = "".join(
        f"<div class=chart><div class=label>{html.escape(name)}</div>"
        f"{_svg({name: points}, x_label, name in log)}</div>"
        for name, points in series.items()
        if points
    )
    return _figure(f"<div class=charts>{drawn}</div>", caption)


def chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str = "",
    caption: str = "",
    x_label: str = "step",
    log: bool = False,
) -> str:
    """Draws up to six series in one chart, with a legend."""
    if len(series) > 6:
        raise ValueError(f"{len(series)} series in one chart cannot be told apart; use `charts`.")
    keys = "".join(f"<span class=c{i}>{html.escape(name)}</span>" for i, name in enumerate(series))
    drawn = _svg(series, x_label, log, width=2 * _WIDTH, height=260)
    return _figure(
        f'<div class="chart alone"><div class=label>{html.escape(title)}</div>'
        f"<div class=legend>{keys}</div>{drawn}</div>",
        caption,
    )


def _figure(body: str, caption: str) -> str:
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure class=wide>{body}{note}</figure>\n"


def _svg(
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    log: bool,
    width: int = _WIDTH,
    height: int = _HEIGHT,
) -> str:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    if log and min(ys) <= 0:
        raise ValueError(f"a logarithmic axis cannot show {min(ys)}; leave this series linear.")
    x_ticks, y_ticks = ticks(min(xs), max(xs)), (log_ticks if log else ticks)(min(ys), max(ys))
    x_range = min(xs), max(max(xs), min(xs) + 1e-9)
    y_range = min(*ys, *y_ticks), max(*ys, *y_ticks)

    def across(x: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (x - x_range[0]) / (x_range[1] - x_range[0])

    def up(y: float) -> float:
        low, high, y = (math.log10(v) for v in (*y_range, y)) if log else (*y_range, y)
        return height - _BOTTOM - (height - _TOP - _BOTTOM) * (y - low) / ((high - low) or 1)

    lines = [
        f'<line class=grid x1={_LEFT} x2={width - _RIGHT} y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        f'<text x={_LEFT - 6} y="{up(y) + 3.5:.1f}" text-anchor=end>{number(y)}</text>'
        for y in y_ticks
    ]
    lines += [
        f'<text x="{across(x):.1f}" y={height - 9} text-anchor=middle>{number(x)}</text>'
        for x in x_ticks
    ]
    for i, (name, points) in enumerate(series.items()):
        lines += _curve(i, name, points, [(across(x), up(y)) for x, y in points])
    summary = html.escape(f"{', '.join(series)} over {x_label}")
    return (
        f'<svg viewBox="0 0 {width} {height}" role=img aria-label="{summary}" '
        f'data-x="{html.escape(x_label)}">{"".join(lines)}</svg>'
    )


def _curve(index: int, name: str, points: Sequence[Point], places: Sequence[Point]) -> list[str]:
    """Draws one series: its values, for the pointer, at its places on the canvas."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    values = " ".join(f"{x:g},{y:.5g}" for x, y in points)
    drawn = [
        f'<polyline class=c{index} points="{path}" data-name="{html.escape(name)}" '
        f'data-values="{values}"/>'
    ]
    if len(places) == 1:
        x, y = places[0]
        drawn.append(f'<circle class=c{index} cx="{x:.1f}" cy="{y:.1f}" r=3 />')
    return drawn


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Chooses about `count` round numbers that cover [low, high]: steps of 1, 2 or 5."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Chooses the powers of ten around [low, high], at most five of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 4))
    return [10.0**power for power in range(first, last + 1, every)]
