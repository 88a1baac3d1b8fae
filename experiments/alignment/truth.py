"""Does the alignment score tell whether a song sings its words?

    python -m experiments.alignment.truth --shards data/shards/own [--heads FILE] [--report FILE]

Clips of our own songs, whose words and times are known exactly, are spoilt by known amounts, or are
given other songs' lyrics (`damage.py`), and scored. Told are

    rank correlation of the score with the damage (Spearman), over all clips and grades and, as a
    mean, within a clip; a true measure has -1;
    the area under the curve of telling a clip's own lyrics from another's in the same language
    where there is one: over all clips, and, as a share of pairs, within a clip;

for the score, for its three parts, and for the score with each part left out, with 95 % intervals
by resampling clips. Expected: a model that sings its lyrics has areas near 1. One that does not
hear them has 0.5 and no correlation, and its score must not be trained on. The last line is one
JSON object; `--report` writes charts.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from acestep_jax.data import sources
from acestep_jax.ops.alignment import Scores
from acestep_jax.tasks import alignment
from acestep_jax.tasks.alignment import Reading
from acestep_jax.training import models, report
from experiments.alignment import damage
from experiments.alignment.clips import ALIGNER, Clip, Ear, read_clips

GRADES = (0.0, 0.25, 0.5, 0.75, 1.0)
RESAMPLINGS = 1000
Marks = dict[str, np.ndarray]
"""Score, parts, and the score without each part, [clips, grades] or [clips]."""


def marks_of(scores: Scores, shape: tuple[int, ...]) -> Marks:
    """Names what is compared; a left-out part counts as 1."""
    parts = {name: np.asarray(x, np.float64) for name, x in scores._asdict().items()}
    coverage, monotonicity, confidence = (
        parts[name] for name in ("coverage", "monotonicity", "confidence")
    )
    parts |= {
        "without coverage": monotonicity**2 * confidence,
        "without monotonicity": coverage**2 * confidence,
        "without confidence": coverage**2 * monotonicity**2,
    }
    return {name: x.reshape(shape) for name, x in parts.items()}


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlates ranks, ties sharing theirs; 0 where one side has no spread."""
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def area(right: np.ndarray, wrong: np.ndarray) -> float:
    """Gives the chance that a right one scores higher than a wrong one; ties count half."""
    difference = right[:, None] - wrong[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def paired(right: np.ndarray, wrong: np.ndarray) -> float:
    """Gives the share of clips whose own lyrics score higher; ties count half."""
    return float(np.mean((right > wrong) + 0.5 * (right == wrong)))


def interval(
    measure: Callable[..., float], *values: np.ndarray, seed: int = 0
) -> tuple[float, float, float]:
    """Measures, with a 95 % interval from resampled clips (the first axis of `values`)."""
    rng, count = np.random.default_rng(seed), len(values[0])
    chosen = rng.integers(count, size=(RESAMPLINGS, count))
    drawn = [measure(*(value[own] for value in values)) for own in chosen]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return tuple(round(float(x), 4) for x in (measure(*values), low, high))


def overall(marks: np.ndarray, damages: np.ndarray) -> float:
    """Correlates over all clips and grades."""
    return spearman(marks.ravel(), damages.ravel())


def within(marks: np.ndarray, damages: np.ndarray) -> np.ndarray:
    """Correlates within each clip, [clips]."""
    return np.array([spearman(x, y) for x, y in zip(marks, damages, strict=True)])


def strangers_of(clips: Sequence[Clip], clip: Clip) -> list[str]:
    """Lists words of other tunes, in the clip's language where there are any."""
    others = [other for other in clips if other.labels.group != clip.labels.group]
    own = [other for other in others if other.labels.language == clip.labels.language]
    return sorted({word.text for other in (own or others) for word in other.words})


def other_sheet(clips: Sequence[Clip], clip: Clip, ear: Ear, rng: np.random.Generator) -> str:
    """Draws the sheet of another tune, in the clip's language where there is one."""
    others = [other for other in clips if other.labels.group != clip.labels.group]
    own = [other for other in others if other.labels.language == clip.labels.language]
    language = clip.labels.language
    fitting = [c for c in (own or others) if ear.fits(c.lyrics, language)]
    return fitting[rng.integers(len(fitting))].lyrics


def grade(
    ear: Ear, clips: Sequence[Clip], kind: str, reading: Reading, rng: np.random.Generator
) -> tuple[Marks, np.ndarray]:
    """Scores all clips at all grades of one kind: marks and damages, [clips, grades]."""
    spoilt = [
        damage.spoil(kind, clip, amount, strangers_of(clips, clip), rng)
        for clip in clips
        for amount in GRADES
    ]
    scores = ear.score([s.clip for s in spoilt], [s.sheet for s in spoilt], reading)
    shape = (len(clips), len(GRADES))
    return marks_of(scores, shape), np.array([s.damage for s in spoilt]).reshape(shape)


def correlations(marks: Marks, damages: np.ndarray) -> dict[str, object]:
    """Correlates every mark with the damage; grades take its place where it is always zero."""
    truth = damages if np.ptp(damages) else np.broadcast_to(np.array(GRADES), damages.shape)
    return {
        name: {
            "overall": interval(overall, mark, truth),
            "within": interval(lambda values: float(np.mean(values)), within(mark, truth)),
        }
        for name, mark in marks.items()
    }


def recognition(right: Marks, wrong: Marks) -> dict[str, object]:
    """Measures how well each mark tells right lyrics from wrong ones."""
    return {
        name: {
            "area": interval(area, right[name], wrong[name]),
            "paired": interval(paired, right[name], wrong[name]),
        }
        for name in right
    }


def measure(
    ear: Ear, clips: Sequence[Clip], reading: Reading, seed: int = 0
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Runs the whole comparison; gives results, and mean scores by kind and grade."""
    rng = np.random.default_rng(seed)
    clips = [clip for clip in clips if ear.fits(clip.lyrics + clip.lyrics, clip.labels.language)]
    groups = {clip.labels.group for clip in clips}
    if len(groups) < 2:
        raise SystemExit(f"{len(clips)} clips of {len(groups)} tunes; other lyrics need two.")
    right = marks_of(ear.score(clips, [clip.lyrics for clip in clips], reading), (len(clips),))
    sheets = [other_sheet(clips, clip, ear, rng) for clip in clips]
    wrong = marks_of(ear.score(clips, sheets, reading), (len(clips),))
    results: dict[str, object] = {"clips": len(clips), "lyrics": recognition(right, wrong)}
    means = {}
    for kind in damage.KINDS:
        marks, damages = grade(ear, clips, kind, reading, rng)
        results[kind] = correlations(marks, damages)
        means[kind] = marks["score"].mean(axis=0)
    return results, means


def show(results: Mapping, means: Mapping[str, np.ndarray], path: pathlib.Path | None) -> None:
    """Prints the tables, and draws them where a file is named."""
    columns = ("", "area", "own over other", *damage.KINDS)
    rows = [
        (
            name,
            *(_with_interval(own[key]) for key in ("area", "paired")),
            *(_with_interval(results[kind][name]["within"]) for kind in damage.KINDS),
        )
        for name, own in results["lyrics"].items()
    ]
    for row in (columns, *rows):
        print("".join(f"{cell:22}" for cell in row))
    if path is None:
        return
    lines = {kind: list(zip(GRADES, map(float, mean))) for kind, mean in means.items()}
    report.write(
        path,
        "Is the alignment score a true measure?",
        report.section(
            "Score by grade of damage",
            report.chart(lines, title="mean score", x_label="grade"),
        ),
        report.section(
            "Recognition and rank correlation",
            report.table(columns, rows, caption="95 % intervals by resampling clips."),
        ),
        lead=f"{results['clips']} clips of songs whose words are known.",
    )


def _with_interval(values: Sequence[float]) -> str:
    return f"{values[0]:.2f} ({values[1]:.2f}, {values[2]:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shards", type=pathlib.Path, default=sources.EMBEDDED)
    add("--splits", nargs="+", default=["validation", "test"], help="whose clips are scored")
    add("--weights", default=ALIGNER, help="folder or hub id of who listens; nano's aligner")
    add("--text_weights", default="", help="its text encoder; nano's by default")
    add("--heads", type=pathlib.Path, help="from heads.py; by default those beside the weights")
    add("--frames", type=int, default=128, help="of a clip; what the model was trained with")
    add("--clips", type=int, default=96)
    add("--steps", type=int, default=8, help="listen at t = 1 / steps")
    add("--draws", type=int, default=4)
    add("--report", type=pathlib.Path, help="HTML file with charts")
    given = parser.parse_args(arguments)
    ear = Ear.load(given.weights, given.text_weights)
    if given.heads is not None:
        heads = alignment.read_heads(given.heads)
    else:
        where = models.locate(given.weights)
        heads = alignment.find_heads(where, ear.loaded.networks.config)
    count = -(-given.clips // len(given.splits))
    clips = [
        c for split in given.splits for c in read_clips(given.shards, split, count, given.frames)
    ]
    reading = Reading(heads, t=1 / given.steps, draws=given.draws)
    results, means = measure(ear, clips, reading)
    show(results, means, given.report)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
