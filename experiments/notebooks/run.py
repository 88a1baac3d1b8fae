"""Executes a notebook's cells in order, with no more than Python.

    python -m experiments.notebooks.run experiments/notebooks/tasks.ipynb --out runs/tasks.ipynb
    python -m experiments.notebooks.run experiments/notebooks/tasks.ipynb --set SONGS=3 STEPS=4

The notebooks are plain nbformat 4 and run in Jupyter as well; this runs them where there is none,
in the tests for instance. Cells share a namespace; what they print and the value of a last
expression (as HTML, where it knows how) become the outputs of the written copy. The cell tagged
`parameters` is followed by the values given with `--set`.
"""

import argparse
import ast
import contextlib
import io
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Notebook = dict[str, Any]


class CellError(RuntimeError):
    """A cell that raised; the message names it, and the cause is the error itself."""


def read(path: pathlib.Path) -> Notebook:
    """Reads a notebook.

    Raises:
      ValueError: if it is not one of nbformat 4.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise ValueError(f"{path} is no notebook of nbformat 4.")
    return notebook


def execute(
    notebook: Notebook, parameters: Mapping[str, Any] | None = None
) -> tuple[Notebook, dict[str, Any]]:
    """Runs every code cell.

    Args:
      notebook: left as it is.
      parameters: replace what the cell tagged `parameters` sets.

    Returns:
      A copy with outputs, and the namespace that the cells left behind.

    Raises:
      CellError: at the first cell that raises.
      ValueError: for parameters that the notebook does not have.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for index, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            cells.append(cell)
            continue
        count += 1
        outputs = _run_cell("".join(cell["source"]), namespace, index)
        if "parameters" in cell.get("metadata", {}).get("tags", ()):
            _override(namespace, parameters or {})
        cells.append({**cell, "outputs": outputs, "execution_count": count})
    return {**notebook, "cells": cells}, namespace


def _override(namespace: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    unknown = sorted(set(parameters) - set(namespace))
    if unknown:
        raise ValueError(f"the notebook has no parameters {unknown}.")
    namespace.update(parameters)


def _run_cell(source: str, namespace: dict[str, Any], index: int) -> list[dict[str, Any]]:
    """Executes a cell; gives what it printed and the value of its last expression."""
    name = f"<cell {index}>"
    printed, value = io.StringIO(), None
    try:
        tree = ast.parse(source, name)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, name, "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    except Exception as error:
        first = (source.strip() or "(empty)").splitlines()[0]
        raise CellError(f"cell {index} ({first}): {type(error).__name__}: {error}") from error
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if value is not None:
        html = getattr(value, "_repr_html_", None)
        data = {"text/plain": repr(value)} | ({"text/html": html()} if html else {})
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return outputs


def main(argv: Sequence[str] | None = None) -> int:
    """Executes a notebook; prints what it printed, and writes a copy with its outputs if asked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.notebooks.run")
    parser.add_argument("notebook", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="file for the copy with its outputs")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters")
    args = parser.parse_args(argv)
    pairs = (text.partition("=") for text in args.set)
    executed, _ = execute(
        read(args.notebook), {name: ast.literal_eval(value) for name, _, value in pairs}
    )
    for cell in executed["cells"]:
        for output in cell.get("outputs", ()):
            print(output.get("text", ""), end="")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
        print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
