"""Which way of pooling a window makes the better codes, at equal size?

    python -m experiments.tokenizer.ablation                 what is not in the results yet
    python -m experiments.tokenizer.ablation --quick         one seed, a few steps, in minutes

Attention into a learned token (the release), the mean of the frames, and a convolution as long as
the window; all with as many parameters, up to a fifth of a per cent (nn/poolers.py). Expected:
attention and convolution, which know the order of the frames, before the mean.

Each run trains tokenizer, detokenizer and a small decoder from nothing (train/tokenizer.py). Runs
of one seed see the same songs, noise and first decoder, so variants are compared seed by seed. A
run that stopped goes on where it was; a finished one is not run again.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from acestep_jax import compilation, weights
from acestep_jax.nn import model as model_lib
from acestep_jax.nn import straight
from acestep_jax.nn.config import MODELS
from acestep_jax.training import cli, files, models
from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.models import Loaded
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from experiments.distill.seeds import STUDENT_T
from train import tokenizer

RESULTS = pathlib.Path(__file__).parent / "results"
TEXT_ENCODER = "asset:nano/text_encoder"
VARIANTS: dict[str, dict[str, Any]] = {
    "attention pooling": {},
    "mean pooling": {"pooler": "mean"},
    "strided convolution": {"pooler": "conv"},
    "attention, no wrong codes": {"code_noise": 0.0, "window_dropout": 0.0},
}
SIZES = dataclasses.replace(
    MODELS["nano"],
    num_hidden_layers=2,
    encoder_hidden_size=96,
    encoder_intermediate_size=288,
    encoder_num_attention_heads=3,
    encoder_num_key_value_heads=1,
    num_lyric_encoder_hidden_layers=1,
    num_timbre_encoder_hidden_layers=1,
    fsq_dim=96,
)
"""A decoder of two layers as wide as the nano family's; tokenizer and encoders half as wide."""
COLUMNS = {
    "error_true": "eval/error_true",
    "error_wrong": "eval/error_wrong",
    "error_shuffled": "eval/error_shuffled",
    "error_none": "eval/error_none",
    "unexplained": "eval/unexplained",
    "perplexity": "codes/perplexity",
    "used": "codes/used",
}


def plan(shards: str, quick: bool) -> TrainTokenizer:
    """Gives the run that all variants change."""
    rule = Optimizer(
        peak_lr=2e-3, warmup_steps=20, schedule="cosine", final_lr_ratio=0.05, ema_decay=0.98
    )
    return TrainTokenizer(
        name="tokenizer_ablation",
        num_steps=30 if quick else 500,
        reconstruct_steps=10 if quick else 200,
        model=Model(text_weights=TEXT_ENCODER),
        codec=dataclasses.replace(rule, peak_lr=5e-4),  # at 2e-3 one code takes everything
        decoder=rule,
        trained=("^dit$", "^condition_encoder$", "^null_condition$"),
        data=Data(
            shards=shards,
            batch_size=8,
            num_frames=120,
            text_tokens=64,
            lyric_tokens=32,
            timbre_frames=16,
            tasks=(("text2music", 0.25), ("cover", 0.75)),
        ),
        eval_batches=2 if quick else 12,
        log_every=20,
        save_every=200,
        keep=1,
    )


def draw_model(seed: int) -> Loaded:
    """Draws the small model, around the text encoder that ships; its DiT starts straight."""
    text = weights.load_qwen3(models.locate(TEXT_ENCODER))
    networks = model_lib.build_networks(SIZES, text.config)
    draw = jax.jit(model_lib.init_params, static_argnums=0)
    key, straight_key = jax.random.split(jax.random.key(seed))
    params = dict(draw(networks, key)) | {"text_encoder": text.params}
    params["dit"] = straight.start_straight(straight_key, params["dit"])
    return Loaded(networks, params, None)


def run(config: TrainTokenizer) -> dict[str, Any]:
    """Trains one variant with one seed, or what is left of it; gives its numbers."""
    begun = time.process_time()
    cli.prepare_workdir(config)
    trained = tokenizer.train(config, draw_model(config.seed))
    pooler = trained.parts["tokenizer"]["attention_pooler"]
    return {
        **{name: trained.numbers[key] for name, key in COLUMNS.items()},
        "levels_used": [
            trained.numbers[f"codes/channel{d}/used"] for d in range(len(SIZES.fsq_input_levels))
        ],
        "level_perplexities": [
            trained.numbers[f"codes/channel{d}/perplexity"]
            for d in range(len(SIZES.fsq_input_levels))
        ],
        "pooler_parameters": sum(leaf.size for leaf in jax.tree.leaves(pooler)),
        "processor_seconds": time.process_time() - begun,
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Averages each variant over its seeds, with 95 % intervals; also its difference to the first.

    Differences are taken seed by seed. Intervals are None with a single seed.
    """
    first = next(iter(VARIANTS))
    by_seed = {(row["variant"], row["seed"]): row for row in rows}
    summary: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS:
        seeds = sorted(seed for name, seed in by_seed if name == variant)
        if not seeds:
            continue
        own = [by_seed[variant, seed] for seed in seeds]
        both = [seed for seed in seeds if (first, seed) in by_seed]
        summary[variant] = {"seeds": seeds, "pooler_parameters": own[0]["pooler_parameters"]}
        for name in COLUMNS:
            differences = [by_seed[variant, s][name] - by_seed[first, s][name] for s in both]
            summary[variant][name] = interval([row[name] for row in own])
            summary[variant][f"{name}_difference"] = interval(differences)
    return summary


def interval(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Gives mean and half width of the 95 % interval of Student's t."""
    if not values:
        return None
    if len(values) < 2:
        return float(values[0]), None
    point = STUDENT_T.get(len(values), 2.6)
    return float(np.mean(values)), float(point * np.std(values, ddof=1) / np.sqrt(len(values)))


def table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Writes the summary as a Markdown table, a line a variant."""
    shown = ["error_true", "error_wrong", "error_shuffled", "error_none", "unexplained"]
    head = ["variant", "seeds", "pooler", *(name.replace("_", " ") for name in shown)]
    head += ["perplexity", "codes used", "true hints, against attention"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant, row in summary.items():
        cells = [variant, str(len(row["seeds"])), f"{row['pooler_parameters']:,}"]
        cells += [_shown(row[name], 4) for name in shown]
        cells += [_shown(row["perplexity"], 0), _shown(row["used"], 3)]
        cells += [_shown(row["error_true_difference"], 4, sign=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: tuple[float, float | None] | None, digits: int, *, sign: bool = False) -> str:
    if value is None:
        return ""
    mean, half = value
    text = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"


def finish(config: TrainTokenizer, variant: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """Gives the numbers of one run, which is trained unless it was.

    Raises:
      SystemExit: if a run of another recipe is in the folder.
    """
    path = pathlib.Path(config.workdir) / "result.json"
    if not path.exists():
        row = {"variant": variant, "seed": config.seed, **run(config)}
        files.write_atomically(path, json.dumps({"recipe": recipe, **row}) + "\n")
    row = json.loads(path.read_text())
    if row.pop("recipe") != recipe:
        raise SystemExit(f"{path} is of another recipe; move it, or name another --workdir.")
    return row


def collect(folder: pathlib.Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the runs of a recipe that are done, also those of other processes."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    rows = [row for row in found if row.pop("recipe") == recipe]
    names = list(VARIANTS)
    return sorted(rows, key=lambda row: (names.index(row["variant"]), row["seed"]))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs what is missing, writing the results anew after every run."""
    args = _parse(argv)
    compilation.enable_cache()
    base = plan(args.shards, args.quick)
    name = "ablation_quick" if args.quick else "ablation"
    out, folder = pathlib.Path(args.out), pathlib.Path(args.workdir) / name
    out.mkdir(parents=True, exist_ok=True)
    recipe = {key: value for key, value in cli.to_json(base).items() if key != "workdir"}
    report: dict[str, Any] = {}
    for variant, seed in order([0] if args.quick else args.seeds):
        workdir = str(folder / f"{variant.replace(', ', '_').replace(' ', '_')}_{seed}")
        changed = dataclasses.replace(base, seed=seed, workdir=workdir, **VARIANTS[variant])
        finish(changed, variant, recipe)
        rows = collect(folder, recipe)
        report = {"recipe": recipe, "runs": rows, "summary": summarise(rows)}
        files.write_atomically(out / f"{name}.json", json.dumps(report, indent=1) + "\n")
        files.write_atomically(out / f"{name}.md", table(report["summary"]))
        print(table(report["summary"]), flush=True)
    return report


def order(seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Lists the runs: poolers seed by seed, so that a stop leaves whole seeds; then the rest.

    Each seed begins with another pooler: processes that start together compile different programs.
    """
    poolers, others = list(VARIANTS)[:3], list(VARIANTS)[3:]
    first = [(poolers[(seed + i) % 3], seed) for seed in seeds for i in range(3)]
    return first + [(name, seed) for seed in seeds for name in others]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tokenizer.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shards = "data/shards/own,data/shards/real"
    parser.add_argument("--shards", default=shards, help=f"folders ({shards}); + is the embedded")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[0, 1, 2],
        help="which seeds (0,1,2); other processes may run others at the same time",
    )
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps")
    parser.add_argument("--workdir", default="runs", help="where the runs are (runs)")
    parser.add_argument("--out", default=str(RESULTS), help="where the results go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
