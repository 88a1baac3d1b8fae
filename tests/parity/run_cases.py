"""Runs every case of a parity folder and prints one line each.

    python tests/parity/run_cases.py DIR [--layout official|diffusers] [--only op or id]

Float32, on whatever device JAX has. Exits with 1 if a case fails. Of checkpoints as diffusers saves
them a folder may keep only configurations and digests: the weights are then saved from the official
ones, must have those digests, and are read back for the cases.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import jax  # noqa: E402
import parity_cases  # noqa: E402
import parity_operations  # noqa: E402
import parity_prompts  # noqa: E402


def run_case(case: parity_cases.Case, layout: str = "official") -> list[parity_cases.Outcome]:
    """Runs one case and compares its outputs.

    Raises:
      NotImplementedError: if the operation is unknown.
    """
    if case.op not in parity_operations.OPERATIONS:
        known = ", ".join(parity_operations.OPERATIONS)
        raise NotImplementedError(f"unknown operation {case.op!r}; known are {known}")
    operation = parity_operations.OPERATIONS[case.op]
    with jax.default_matmul_precision("highest"):
        got = operation(case.checkpoint(layout), case.params, case.inputs())
    return parity_cases.compare(case, got)


def report(case: parity_cases.Case, layout: str) -> str:
    """Runs a case, prints its line and returns "passed" or "failed"."""
    start = time.perf_counter()
    try:
        outcomes = run_case(case, layout)
    except Exception as error:  # one broken case must not hide the others
        print(f"FAILED  {case.id}: {type(error).__name__}: {error}", flush=True)
        traceback.print_exc()
        return "failed"
    failed = [outcome for outcome in outcomes if not outcome.passed and not outcome.optional]
    shown = outcomes if failed else [outcome for outcome in outcomes if not outcome.optional]
    seconds = time.perf_counter() - start
    state = "FAILED" if failed else "passed"
    print(f"{state}  {case.id}: {', '.join(map(str, shown))} [{seconds:.1f} s]", flush=True)
    return state.lower()


def report_prompts(folder: Path, content: dict) -> list[str]:
    """Checks the entries of `prompts.json`, prints a line each and returns their states."""
    states = []
    for name, check in parity_prompts.checks(folder, content):
        problem = check()
        states.append("failed" if problem else "passed")
        print(f"FAILED  {name}: {problem}" if problem else f"passed  {name}", flush=True)
    return states


def report_export(folder: Path, scratch: Path) -> tuple[Path, list[str]]:
    """Completes the diffusers checkpoints of a folder in another one, a line each.

    Returns:
      The complete folder, and the states of what was saved.
    """
    digests = folder / parity_cases.DIGESTS
    if not digests.is_file():  # it has them whole
        return folder, []
    states = []
    for name, differing in parity_cases.complete(folder, scratch, json.loads(digests.read_text())):
        states.append("failed" if differing else "passed")
        problem = f"FAILED  {name}: {differing} are not what diffusers wrote"
        print(problem if differing else f"passed  {name}: as diffusers wrote it", flush=True)
    return scratch, states


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the folder named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds manifest.json")
    parser.add_argument("--layout", choices=["official", "diffusers"], default="official")
    parser.add_argument("--only", help="an operation, or the beginning of case ids")
    arguments = parser.parse_args(argv)
    only = arguments.only
    with tempfile.TemporaryDirectory() as scratch:
        folder, states = arguments.folder, []
        if arguments.layout == "diffusers":
            folder, states = report_export(folder, Path(scratch))
        cases = [
            case
            for case in parity_cases.read_cases(folder)
            if only is None or case.op == only or case.id.startswith(only)
        ]
        if not cases and only != "prompts":
            parser.error(f"no case is called {only!r}, and no operation either")
        states += [report(case, arguments.layout) for case in cases]
        prompts = folder / "prompts.json"
        if prompts.is_file() and only in (None, "prompts"):
            states += report_prompts(folder, json.loads(prompts.read_text("utf-8")))
    print(f"{states.count('passed')} passed, {states.count('failed')} failed")
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
