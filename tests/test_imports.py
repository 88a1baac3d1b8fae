"""The core needs the core's dependencies alone."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
EXTRAS = (
    "apache_beam",
    "array_record",
    "diffusers",
    "grain",
    "librosa",
    "qwix",
    "soundfile",
    "soxr",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "tokamax",
    "torch",
)
CORE = ("ops", "nn", "weights", "sampling", "tasks", "training")


def _module_names():
    for package in CORE:
        for path in sorted((ROOT / "acestep_jax" / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_core_module_imports_without_any_extra():
    # In its own process: here, some extras are imported already
    program = "\n".join(
        [
            "import importlib, sys",
            f"for name in {EXTRAS!r}: sys.modules[name] = None",
            f"for name in {sorted(_module_names())!r}: importlib.import_module(name)",
            "import acestep_jax",
            "assert not any(name.startswith('flax.nnx') for name in sys.modules), 'nnx'",
            "print('imported')",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "imported", done.stderr[-2000:]
