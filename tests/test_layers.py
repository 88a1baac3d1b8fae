"""The drawing of the house is tested: each storey imports the ones below it only."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Ground floor first; those in one row are neighbours and may not import each other, except that
# `weights` may look at the networks for their shapes.
STOREYS = (
    ("typing", "units", "compilation"),
    ("ops",),
    ("nn",),
    ("weights",),
    ("sampling",),
    ("tasks",),
    ("data",),
    ("training",),
    ("train",),
    ("configs",),
    ("experiments",),
)
HEIGHT = {name: height for height, names in enumerate(STOREYS) for name in names}
PACKAGES = ("acestep_jax", "train", "configs", "experiments")
GROUND = {"jax", "numpy"}  # all that ops needs


def _modules():
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _imports(source):
    """Yields (line, module) of every import, at any depth; `from a import b` yields a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write absolute imports"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _storey(module):
    """Names the storey of a dotted module of ours: acestep_jax.ops.flow -> ops."""
    parts = module.split(".")
    if parts[0] != "acestep_jax":
        return parts[0]
    return parts[1] if len(parts) > 1 and parts[1] in HEIGHT else None


def upstairs(module, source):
    """Lists the imports of `module` that point up."""
    here = _storey(module)
    if here is None:  # the front door, acestep_jax/__init__.py
        return []
    problems = []
    for line, imported in _imports(source):
        there = _storey(imported) if imported.split(".")[0] in PACKAGES else None
        if there is not None and there != here and HEIGHT[there] >= HEIGHT[here]:
            name, other = (m.removeprefix("acestep_jax.") for m in (module, imported))
            problems.append(f"{name} imports {other}, which lives upstairs (line {line})")
    return problems


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert not upstairs(module, path.read_text())


def test_an_import_that_points_up_is_named():
    problems = upstairs("acestep_jax.ops.flow", "def f():\n    from acestep_jax.nn import dit\n")
    assert problems == ["ops.flow imports nn.dit, which lives upstairs (line 2)"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "acestep_jax/ops").glob("*.py")), ids=lambda p: p.name
)
def test_the_ground_floor_stands_on_jax_and_numpy_alone(path):
    import sys

    tree = ast.parse(path.read_text())
    at_top = {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert at_top <= GROUND | {"acestep_jax"} | sys.stdlib_module_names


def test_nothing_imports_nnx():
    for path in _modules():
        for line, imported in _imports(path.read_text()):
            assert not imported.startswith("flax.nnx"), f"{path}:{line}"
