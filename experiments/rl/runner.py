"""What the ablations share: train every variant with every seed, measure, and keep the numbers.

An ablation is a file with a question, and a line a variant: a name and the fields of the nano
recipe that it changes, as `--set` would. Variants of one seed see the same prompts and begin at the
same weights. A run that stopped goes on where it was; a measured one is not run again.

    python -m experiments.rl.algorithm [--quick] [--seeds 0 1 2] [--variants nft]

Results are `results/<file>.json`, and from it a table and a plot: what tuning gained on held-out
prompts over the same start (gains.py), mean and 95 % interval over seeds by Student's t. An order
is called shown only if the intervals do not overlap.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from acestep_jax import compilation
from acestep_jax.training import files, models
from acestep_jax.training.config import Model
from acestep_jax.training.overrides import override
from configs.nano import grpo_dit as dit_recipe
from configs.nano import grpo_planner as planner_recipe
from experiments import runs
from experiments.distill.dots import Row, dot_plot
from experiments.distill.runner import summarise
from experiments.rl import planning, singing
from train import grpo_dit, grpo_planner

RESULTS = pathlib.Path(__file__).parent / "results"
SAMPLES = 2
"""Songs or answers for each held-out prompt."""


class Ablation(NamedTuple):
    """One question.

    Attributes:
      name: of the file.
      question: of the table.
      subject: what is tuned, a name in SUBJECTS.
      variants: {name: fields changed, as `--set` takes them}.
    """

    name: str
    question: str
    subject: str
    variants: Mapping[str, tuple[str, ...]]


class Subject(NamedTuple):
    """What can be tuned.

    Attributes:
      recipe: gives the nano run.
      main: trains it.
      judge: quick -> (folder of a run -> {measure: number}).
      size, quick: fields of a run of an ablation, and of a quick one.
    """

    recipe: Callable[[], Any]
    main: Callable[[Any], None]
    judge: Callable[[bool], Callable[[pathlib.Path], dict[str, float]]]
    size: tuple[str, ...]
    quick: tuple[str, ...]


def judge_dit(quick: bool) -> Callable[[pathlib.Path], dict[str, float]]:
    """Measures tuned DiTs beside the shipped one, whose songs are sampled once."""
    config = dit_recipe.get_config()
    other = singing.OTHER if pathlib.Path(models.locate(singing.OTHER)).is_dir() else ""
    stage = singing.open_stage(config, 8 if quick else 48, other)
    start = singing.sing(stage, stage.frozen["start"], SAMPLES)

    def measure(workdir: pathlib.Path) -> dict[str, float]:
        where = str(workdir / "export" / "model")
        model = Model(weights=where, text_weights=config.model.text_weights)
        sung = singing.sing(stage, models.load(model).params["dit"], SAMPLES)
        found = singing.compare(sung, start)
        readers = [name for name in ("aas", "other reader", "self") if name in found]
        gained = {f"{name} gain": found[name]["gain"][0] for name in readers}
        names = ("coverage", "monotonicity", "confidence", "velocity moved", "style", "diversity")
        return gained | {name: found["watched"][name][0] for name in names}

    return measure


def judge_planner(quick: bool) -> Callable[[pathlib.Path], dict[str, float]]:
    """Measures tuned planners beside the one they began at, whose answers are written once."""
    config = planner_recipe.get_config()
    stage = planning.open_stage(config, 8 if quick else 48, planning.START)
    start = planning.answer(stage, stage.frozen.reference, SAMPLES)

    def measure(workdir: pathlib.Path) -> dict[str, float]:
        written = planning.answer(stage, planning.load(str(workdir / "export")), SAMPLES)
        found = planning.compare(written, start)
        gained = {f"{name} gain": found["parts"][name][0] for name in planning.PARTS}
        names = ("kl a code", "entropy a code", "repeated", "distinct")
        watched = {name: found["watched"][name][0] for name in names}
        totals = {f"{name} gain": found[name]["gain"][0] for name in ("pmi", "other scorer")}
        return {**totals, **gained, **watched}

    return measure


SUBJECTS = {
    "dit": Subject(
        dit_recipe.get_config,
        grpo_dit.main,
        judge_dit,
        size=("num_steps=60", "save_every=30", "eval_every=0", "eval_batches=0"),
        quick=(
            *("num_steps=2", "save_every=2", "eval_every=0", "eval_batches=0", "data.batch_size=2"),
            *("data.num_frames=64", "group=2", "rollout_steps=3", "flow_grpo.window=1"),
        ),
    ),
    "planner": Subject(
        planner_recipe.get_config,
        grpo_planner.main,
        judge_planner,
        size=("num_steps=80", "save_every=40", "eval_every=0", "eval_batches=0"),
        quick=(
            *("num_steps=2", "save_every=2", "eval_every=0", "eval_batches=0"),
            *("data.batch_size=2", "group=2"),
        ),
    ),
}
"""What can be tuned, by name."""


def plan(ablation: Ablation, variant: str, seed: int, workdir: pathlib.Path, quick: bool) -> Any:
    """Gives the run of one variant and seed."""
    subject = SUBJECTS[ablation.subject]
    size = subject.quick if quick else subject.size
    # of a quick run the sizes count, in an ablation of sizes the variant's
    changes = (
        [*ablation.variants[variant], *size] if quick else [*size, *ablation.variants[variant]]
    )
    config = override(subject.recipe(), [*changes, "model.export_dtype=float32", f"seed={seed}"])
    return dataclasses.replace(config, workdir=str(workdir))


def verdict(summary: Mapping[str, Mapping[str, Sequence[float]]], measure: str) -> str:
    """Names the variant that gains most, if its interval lies above all others."""
    order = sorted(summary, key=lambda name: -summary[name][measure][0])
    best, *others = order
    if all(summary[best][measure][1] > summary[name][measure][2] for name in others):
        return f"{measure}: {best} is highest"
    return f"{measure}: no order shown ({best} has the highest mean)"


def table(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes the results as Markdown."""
    summary = summarise(rows)
    measures = list(next(iter(summary.values())))
    lines = [f"# {ablation.question}", ""]
    lines += [f"| variant | seeds | CPU min | {' | '.join(measures)} |"]
    lines += ["|" + "---|" * (3 + len(measures))]
    for name, numbers in summary.items():
        own = [row for row in rows if row["variant"] == name]
        minutes = np.mean([row["seconds"] for row in own]) / 60
        cells = [f"{m:.4f} ({low:.4f} to {high:.4f})" for m, low, high in numbers.values()]
        lines += [f"| {name} | {len(own)} | {minutes:.1f} | {' | '.join(cells)} |"]
    gained = [measure for measure in measures if measure.endswith("gain")]
    return "\n".join([*lines, "", *(f"- {verdict(summary, m)}" for m in gained), ""])


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
        if measure.endswith("gain")
    ]
    files.write_atomically(path.with_suffix(".svg"), dot_plot(ablation.question, dots))


def main(ablation: Ablation, arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is not in the results yet; prints the table, and the rows as JSON last."""
    parser = argparse.ArgumentParser(description=ablation.question)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps, in minutes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="*", default=list(ablation.variants))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/ablations"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    subject = SUBJECTS[ablation.subject]
    seeds = options.seeds[:1] if options.quick else options.seeds
    results = options.runs / "quick" if options.quick else options.results
    known = results / f"{ablation.name}.json"
    rows = json.loads(known.read_text()) if known.exists() else []
    judge = subject.judge(options.quick)
    for seed in seeds:
        for name in options.variants:
            if any((row["variant"], row["seed"]) == (name, seed) for row in rows):
                continue
            quick = "-quick" if options.quick else ""
            own = f"rl-{ablation.name}-{name.replace(' ', '_').replace('/', '-')}-{seed}{quick}"
            workdir = options.runs / own
            config = plan(ablation, name, seed, workdir, options.quick)
            seconds = runs.run_once(subject.main, config)
            measured = judge(workdir)
            rows.append({"variant": name, "seed": seed, "seconds": seconds, "measures": measured})
            keep(ablation, rows, results)
            print(json.dumps(rows[-1]), flush=True)
    print(table(ablation, rows))
    print(json.dumps(rows))
    return rows
