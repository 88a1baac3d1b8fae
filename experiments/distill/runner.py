"""What the ablations share: train every variant with every seed, measure, and keep the numbers.

An ablation is a file with a question, and a line a variant: a name and the fields of the nano
recipe that it changes, as `--set` would. All runs are half the recipe's size twice over (`SIZE`):
80 iterations of clips of 2.56 s, with two critic updates each. Variants of one seed see the same
songs and begin at the same networks. A run that stopped goes on where it was; what was trained or
measured once is kept in its folder, and the recipe at this size, which most questions compare with,
is so made once for all of them.

    python -m experiments.distill.shift_law [--quick] [--seeds 0 1 2] [--variants joint]

Several processes may share `--runs` if their seeds differ; the one that comes last finds all.

Results are `results/<file>.json`, and from it a table and a plot: the energy distance to the
guided teacher over that of the undistilled one (measures.py), and likewise to real songs; mean and
95 % interval over seeds by Student's t. An order of two variants is called shown only if the
interval of their difference, seed by seed, leaves zero out.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from acestep_jax import compilation
from acestep_jax.training import files
from acestep_jax.training.overrides import override
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.typing import Params
from configs.nano import distill as recipe
from experiments import runs
from experiments.distill import evaluate, measures, players
from experiments.distill import seeds as seeds_lib
from experiments.distill.dots import Row, dot_plot
from train import distill

RESULTS = pathlib.Path(__file__).parent / "results"
FRAMES, QUICK_FRAMES = 64, 32
SIZE = ("num_steps=80", "save_every=40", f"data.num_frames={FRAMES}", "critic_steps=2")
"""Two critic updates, not the recipe's five: at this size no worse (critic_ratio.py)."""
QUICK = (
    *("warmup.steps=1", "warmup.updates=1", "warmup.teacher_steps=2", "warmup.critic_steps=1"),
    *(
        "num_steps=4",
        "critic_steps=1",
        "save_every=4",
        "data.batch_size=2",
        f"data.num_frames={QUICK_FRAMES}",
    ),
)
DIVERSITY, REAL = "diversity", "real songs, 8 steps, shift 3"
SILENT = (
    *("model.vae_weights=", "model.export_dtype=float32", "evaluation.num_items=2"),
    *("evaluation.teacher_steps=2", "evaluation.student_steps=2,"),
)
"""Runs are measured here, not by their own reports."""


class Ablation(NamedTuple):
    """One question.

    Attributes:
      name: of the file.
      question: of the table.
      variants: {name: fields changed, as `--set` takes them}.
      grid: (steps, shift) at which students are measured.
    """

    name: str
    question: str
    variants: Mapping[str, tuple[str, ...]]
    grid: Sequence[tuple[int, float]]


def plan(changes: Sequence[str], seed: int, workdir: pathlib.Path, quick: bool) -> Distill:
    """Gives the run of one variant and seed."""
    size = QUICK if quick else SIZE
    config = override(recipe.get_config(), [*size, *SILENT, *changes, f"seed={seed}"])
    return dataclasses.replace(config, workdir=str(workdir))


def place(folder: pathlib.Path, changes: Sequence[str], seed: int, quick: bool) -> pathlib.Path:
    """Names the folder of a run by what it changes, so that questions share their runs."""
    name = re.sub(r"[^\w.,=-]", "_", "+".join(changes)) or "recipe"
    return folder / ("quick" if quick else "") / f"{name}-{seed}"


class Judge:
    """Measures students on the same prompts and noise; the references are sampled once, if ever."""

    def __init__(self, quick: bool) -> None:
        """Takes 64 prompts and a teacher of 50 steps, or four of both."""
        self._quick = quick
        self._undistilled: dict[float, evaluate.Distances] = {}

    @functools.cached_property
    def _stage(self) -> players.Stage:
        prompts, frames = (4, QUICK_FRAMES) if self._quick else (64, FRAMES)
        return players.open_stage(players.TEACHER, prompts, min(16, prompts), num_frames=frames)

    @functools.cached_property
    def _reference(self) -> evaluate.Reference:
        return evaluate.make_reference(
            self._stage,
            steps=4 if self._quick else 50,
            guidance=recipe.get_config().guidance_scale,
            shift=3.0,
            sound=False,
        )

    def __call__(self, run: pathlib.Path, grid: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Gives {"8 steps, shift 3": share of the undistilled teacher's distance, ...}.

        Also that to real songs, and the diversity.

        Args:
          run: a trained run's folder, which keeps what was measured of it.
          grid: (steps, shift) to measure at.
        """
        kept = run / "measures.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        wanted: dict[str, Callable[[Params], float]] = {
            f"{steps} steps, shift {shift:g}": functools.partial(self._share, (steps, shift))
            for steps, shift in grid
        } | {REAL: self._to_songs, DIVERSITY: self._diversity}
        missing = [name for name in wanted if name not in known]
        if missing:
            params = players.load_student(str(run / "export" / "model"))
            known |= {name: wanted[name](params) for name in missing}
            files.write_atomically(kept, json.dumps(known))
        return {name: known[name] for name in wanted}

    def _diversity(self, params: Params) -> float:
        two = (players.sample(self._stage, params, 8, 3.0, seed=seed) for seed in (2, 3))
        return evaluate.diversity(*two, self._reference)[0]

    def _to_songs(self, params: Params) -> float:
        """Gives the share of the undistilled teacher's distance to the songs of the prompts."""
        songs = np.concatenate([np.asarray(scene.real) for scene in self._stage.scenes])
        within = measures.song_distances(songs, songs)
        ours, theirs = (
            measures.distances(players.sample(self._stage, p, 8, 3.0, seed=2), songs, within)
            for p in (params, self._stage.teacher)
        )
        return round(evaluate.ratio(ours, theirs).value, 5)

    def _share(self, where: tuple[int, float], params: Params) -> float:
        steps, shift = where
        if shift not in self._undistilled:
            self._undistilled[shift] = self._distances(self._stage.teacher, 8, shift)
        ours, theirs = self._distances(params, steps, shift), self._undistilled[shift]
        return round(evaluate.ratio(ours, theirs).value, 5)

    def _distances(self, params: Params, steps: int, shift: float) -> evaluate.Distances:
        songs = players.sample(self._stage, params, steps, shift, seed=2)
        return evaluate.judge(evaluate.Songs(songs), self._reference)[1]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Gives {variant: {measure: [mean, low, high]}}; one seed has no interval."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row["measures"] for row in rows if row["variant"] == name]
        found[name] = {key: seeds_lib.interval([row[key] for row in own]) for key in own[0]}
    return found


def behind(
    rows: Sequence[Mapping[str, Any]], measure: str, best: str, other: str
) -> list[float] | None:
    """Gives by how much one variant's distance is larger, [mean, low, high], seed by seed.

    Runs of one seed share their songs and start, so pairs differ less than seeds do. None without
    two seeds that both have run.
    """
    each = {
        name: {row["seed"]: row["measures"][measure] for row in rows if row["variant"] == name}
        for name in (best, other)
    }
    shared = each[best].keys() & each[other].keys()
    gaps = [each[other][seed] - each[best][seed] for seed in sorted(shared)]
    return seeds_lib.interval(gaps) if len(gaps) > 1 else None


def verdict(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    """Names the variant with the smallest mean, and which others are shown to be farther away."""
    summary = summarise(rows)
    best, *others = sorted(summary, key=lambda name: summary[name][measure][0])
    gaps = {name: behind(rows, measure, best, name) for name in others}
    shown = {name: gap for name, gap in gaps.items() if gap is not None and gap[1] > 0}
    parts = [
        f"{name} by {mean:.2f} ({low:.2f} to {high:.2f})"
        for name, (mean, low, high) in shown.items()
    ]
    told = f"; farther by pairs of seeds: {', '.join(parts)}" if parts else ""
    if len(shown) == len(others):
        return f"{measure}: {best} is best{told}"
    open_ = [name for name in others if name not in shown]
    return f"{measure}: {best} has the smallest mean{told}; no order shown to {', '.join(open_)}"


def table(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes the results as Markdown."""
    summary = summarise(rows)
    names = list(next(iter(summary.values())))
    lines = [f"# {ablation.question}", ""]
    lines += [f"| variant | seeds | CPU min | {' | '.join(names)} |"]
    lines += ["|" + "---|" * (3 + len(names))]
    for name, numbers in summary.items():
        own = [row for row in rows if row["variant"] == name]
        minutes = np.mean([row["seconds"] for row in own]) / 60
        cells = [
            f"{m:.3f} ({low:.3f} to {high:.3f})" if low < high else f"{m:.3f}"
            for m, low, high in numbers.values()
        ]
        lines += [f"| {name} | {len(own)} | {minutes:.1f} | {' | '.join(cells)} |"]
    places = [name for name in names if name != DIVERSITY]
    return "\n".join([*lines, "", *(f"- {verdict(rows, m)}" for m in places), ""])


def keep(ablation: Ablation, rows: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> None:
    """Writes numbers, table and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ablation.name
    files.write_atomically(path.with_suffix(".json"), json.dumps(list(rows), indent=1) + "\n")
    files.write_atomically(path.with_suffix(".md"), table(ablation, rows))
    dots = [
        Row(f"{name}, {measure}", *numbers)
        for name, found in summarise(rows).items()
        for measure, numbers in found.items()
        if measure != DIVERSITY
    ]
    files.write_atomically(path.with_suffix(".svg"), dot_plot(ablation.question, dots))


def run(ablation: Ablation, judge: Judge, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs what is not in the results yet, and keeps them row by row."""
    seeds = options.seeds[:1] if options.quick else options.seeds
    results = options.runs / "quick" / "results" if options.quick else options.results
    known = results / f"{ablation.name}.json"
    rows = json.loads(known.read_text()) if known.exists() else []
    for seed in seeds:
        for name, changes in ablation.variants.items():
            told = any((row["variant"], row["seed"]) == (name, seed) for row in rows)
            if told or (options.variants and name not in options.variants):
                continue
            workdir = place(options.runs, changes, seed, options.quick)
            seconds = runs.run_once(distill.main, plan(changes, seed, workdir, options.quick))
            measured = judge(workdir, ablation.grid)
            rows.append({"variant": name, "seed": seed, "seconds": seconds, "measures": measured})
            keep(ablation, rows, results)
            print(json.dumps(rows[-1]), flush=True)
    print(table(ablation, rows) if rows else f"{ablation.name}: nothing was run")
    return rows


def main(*ablations: Ablation, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Asks each question, and prints {its name: rows} as JSON last."""
    parser = argparse.ArgumentParser(description=" ".join(a.question for a in ablations))
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps, in minutes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="*", default=[], help="by name; all without it")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/ablations"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    judge = Judge(options.quick)
    found = {ablation.name: run(ablation, judge, options) for ablation in ablations}
    print(json.dumps(found))
    return found
