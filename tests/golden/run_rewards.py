"""Runs every golden reward case of a folder and prints one line each.

    python tests/golden/run_rewards.py DIR

A case is an `.npz` file with a `meta` entry, JSON that names its kind: `align`, `dtw`, `pmi_units`
or `pmi_e2e`. Stages are tested one by one: a path from the stored costs must be equal, numbers meet
the tolerances below, and where `meta` calls a case stable the end results must be equal as well.
Exits with 1 if a case fails.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import alignment_cases  # noqa: E402
import numpy as np  # noqa: E402
import pmi_cases  # noqa: E402
from outcomes import Outcome  # noqa: E402

KINDS: dict[str, Callable[..., list[Outcome]]] = {
    "align": alignment_cases.run_align,
    "dtw": alignment_cases.run_dtw,
    "pmi_units": pmi_cases.run_units,
    "pmi_e2e": pmi_cases.run_end_to_end,
}


def run_case(path: Path) -> list[Outcome]:
    """Runs one file and compares all that it holds.

    Raises:
      NotImplementedError: if its kind is unknown.
    """
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    meta = json.loads(str(arrays.pop("meta")))
    if meta.get("kind") not in KINDS:
        raise NotImplementedError(f"kind {meta.get('kind')!r}; known are {', '.join(KINDS)}")
    return KINDS[meta["kind"]](meta, arrays)


def report(path: Path) -> bool:
    """Runs a case, prints its line and tells whether it passed."""
    try:
        outcomes = run_case(path)
    except Exception as error:  # one broken case must not hide the others
        print(f"FAILED  {path.name}: {type(error).__name__}: {error}", flush=True)
        traceback.print_exc()
        return False
    failed = [outcome for outcome in outcomes if not outcome.passed]
    state = "FAILED" if failed else "passed"
    print(f"{state}  {path.name}: {', '.join(map(str, failed or outcomes))}", flush=True)
    return not failed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the folder named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds .npz files")
    folder = parser.parse_args(argv).folder
    cases = sorted(folder.glob("*.npz"))
    if not cases:
        parser.error(f"{folder} holds no .npz file")
    passed = [report(path) for path in cases]
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
