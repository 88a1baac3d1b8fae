"""Does every request end in a song or in a clear error?

    python -m experiments.fuzz --count 2000 --seed 0

Half of the cases call the pipeline, half run the command, with the shipped nano weights at two
steps. Requests start as ones that can be done, of every task; fields are then replaced by values
out of range, reversed, of the wrong type, by text of every Unicode plane or lyrics of ten minutes;
sounds are empty, a single sample, not finite, silent, mono or of eight channels, at 8 to 192 kHz,
cut off anywhere, or no sound at all. Files of requests are damaged, nested without end, or lists
that repeat themselves a billion times; options, adapters and places of files are at times odd too.

A case passes if it ends in whole, finite sound of the length that was asked for, or in an error
that we raise on purpose, with nothing left on the disk. Case i of a seed is the same in every run:
`--first i --count 1` runs it again. The last line says how many passed and failed; the exit status
is 1 if any failed.
"""

import argparse
import collections
import faulthandler
import sys
import time
import traceback
from collections.abc import Sequence

from acestep_jax import compilation
from acestep_jax.tasks.pipeline import Pipeline
from experiments.fuzz import doors


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases; returns the exit status."""
    args = _parser().parse_args(argv)
    compilation.enable_cache()
    pipe = Pipeline.load("nano")
    outcomes: collections.Counter[str] = collections.Counter()
    start = time.monotonic()
    for index in range(args.first, args.first + args.count):
        outcomes[_outcome(pipe, args, index)] += 1
        if (index - args.first + 1) % 100 == 0:
            spent = time.monotonic() - start
            print(f"{index - args.first + 1} cases, {spent:.0f} s: {dict(outcomes)}", flush=True)
    failed = outcomes["failed"]
    print(f"{outcomes['song']} songs, {outcomes['refused']} refusals")
    print(f"{args.count - failed} passed, {failed} failed")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=2000, help="cases (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--limit", type=int, default=300, help="processor seconds a case may take")
    parser.add_argument("--show", action="store_true", help="print how every case ended")
    return parser


def _outcome(pipe: Pipeline, args: argparse.Namespace, index: int) -> str:
    try:
        ended = doors.run_case(pipe, args.seed, index, args.limit)
    except Exception as error:  # the one place where anything at all is to be caught
        print(f"case {index} of seed {args.seed} failed: {type(error).__name__}: {error}"[:2000])
        if not isinstance(error, doors.Failure):
            traceback.print_exc(limit=-4)
        return "failed"
    if args.show:
        print(f"case {index}: {ended[:300]}", flush=True)
    return ended.partition(":")[0]


if __name__ == "__main__":
    faulthandler.enable()  # a crash of a native library names the case's stack
    sys.exit(main())
