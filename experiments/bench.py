"""How fast are the networks here, and beside PyTorch's diffusers?

    python -m experiments.bench --shapes experiments/shapes/bench_small.json
    python -m experiments.bench --shapes FILE --against diffusers --compiled --pinned

Runs on whatever device there is. Weights are random, at the sizes of the file; the work goes
through the doors that users go through: the sampler, and each network under `jit`. With
`--against`, both sides are timed in turn in the same run, with the same dtype and threads.

Prints a line an item and, on the last line, everything as JSON. A ratio above one means that we are
faster. A share is the time that the item's matrix products would take at the rate of a large square
product, timed around the item in the same library, over the time it took.

On a busy machine use `--pinned`: one thread on one core, timed by processor time, which nobody
else's work enters.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is shared by both sides

import jax

from acestep_jax import compilation
from experiments.benchmarks import counts, ours, problem, timing


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Times what the command line asks for, prints it, and returns what was printed last."""
    args = _parse(argv)
    spec = problem.read_problem(args.shapes)
    spec = dataclasses.replace(
        spec, dtype=args.dtype or spec.dtype, threads=args.threads or spec.threads
    )
    items, left_out = problem.choose_items(spec, args.items)
    theirs = _import_theirs() if args.against else None
    threads = timing.limit_threads(spec.threads, pinned=args.pinned)
    compilation.enable_cache()
    if args.pinned and jax.default_backend() != "cpu":
        raise SystemExit("--pinned times a processor core; leave it out on an accelerator.")
    clock = time.process_time if args.pinned else time.perf_counter

    print(_HEADER)
    results: dict[str, Any] = {}
    for item in items:
        sides = {"ours": ours.contestant(spec, item)}
        if theirs is not None:
            sides["diffusers"] = theirs.contestant(spec, item, threads=threads, compiled=False)
            if args.compiled and theirs.compiles(item):
                sides["compiled"] = theirs.contestant(spec, item, threads=threads, compiled=True)
        results[item] = _compare(sides, counts.count(spec, item), clock, args.repeats)
        _print_item(item, results[item])
    report = {
        "name": spec.name,
        "device": jax.devices()[0].device_kind,
        "dtype": spec.dtype,
        "threads": threads,
        "clock": "processor" if args.pinned else "wall",
        "shapes": dataclasses.asdict(spec.shapes),
        "items": results,
        "left_out": left_out,
    }
    print(json.dumps(report))
    return report


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", required=True, help="file of sizes, as in experiments/shapes/")
    parser.add_argument("--against", choices=["diffusers"], help="time PyTorch beside us")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too: loop, VAE")
    parser.add_argument("--pinned", action="store_true", help="processor time of one core")
    parser.add_argument("--items", type=lambda text: text.split(","), help="some items: a,b_b2")
    parser.add_argument("--repeats", type=int, default=5, help="runs an item (5)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="instead of the file's")
    parser.add_argument("--threads", type=int, help="instead of the file's")
    args = parser.parse_args(argv)
    if args.compiled and not args.against:
        parser.error("--compiled compiles the other side; add --against diffusers.")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: at least one run is needed.")
    return args


def _import_theirs() -> Any:
    try:
        from experiments.benchmarks import theirs
    except ImportError as error:
        raise SystemExit(
            f"--against diffusers needs PyTorch and diffusers here ({error}); install them with "
            "pip install torch==2.13.0 diffusers==0.42.1, or use the environment of "
            "`make test-torch`, .venv-torch/bin/python."
        ) from error
    return theirs


def _compare(
    sides: dict[str, timing.Contestant], operations: float, clock: timing.Clock, repeats: int
) -> dict[str, Any]:
    timings = timing.take_turns(sides, clock, repeats)
    result: dict[str, Any] = {"product_gflop": operations / 1e9}
    result |= timing.summarise(timings["ours"], operations)
    for name in list(timings)[1:]:
        result[name] = timing.summarise(timings[name], operations)
        result[name]["ratio"] = timing.ratio(timings["ours"], timings[name])
    return result


_HEADER = (
    f"{'item':<20}{'ours, ms':>12}{'low - high':>20}{'share':>8}"
    f"{'diffusers':>12}{'share':>8}{'ratio':>8}{'compiled':>11}{'ratio':>8}"
)


def _print_item(item: str, result: dict[str, Any]) -> None:
    low, high = 1e3 * result["low_s"], 1e3 * result["high_s"]
    line = f"{item:<20}{1e3 * result['median_s']:>12.2f}{f'{low:.2f} - {high:.2f}':>20}"
    line += f"{result['share']:>8.0%}"
    if "diffusers" in result:
        other = result["diffusers"]
        line += f"{1e3 * other['median_s']:>12.2f}{other['share']:>8.0%}{other['ratio']:>8.2f}"
    if "compiled" in result:
        other = result["compiled"]
        line += f"{1e3 * other['median_s']:>11.2f}{other['ratio']:>8.2f}"
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"bench: {error}")
