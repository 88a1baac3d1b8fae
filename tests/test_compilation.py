"""What one process compiles, the next one finds."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import jax, jax.monitoring
from acestep_jax import compilation

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
folder = compilation.enable_cache(min_seconds=0.0)
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8))).block_until_ready()
print(folder, events.count("/jax/compilation_cache/cache_hits"))
"""


def compile_in_a_process(**variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    folder, hits = done.stdout.split()
    return folder, int(hits)


@pytest.mark.parametrize("variable", ["ACESTEP_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR"])
def test_a_second_process_compiles_nothing(tmp_path, variable):
    first = compile_in_a_process(**{variable: str(tmp_path)})
    second = compile_in_a_process(**{variable: str(tmp_path)})
    assert first == (str(tmp_path), 0)
    assert second[0] == str(tmp_path)
    assert second[1] >= 1


def test_the_cache_lives_in_the_home_and_can_be_off(tmp_path):
    folder, _ = compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))
    assert folder == str(tmp_path / "acestep_jax" / "compiled")
    assert compile_in_a_process(ACESTEP_JAX_CACHE="off") == ("None", 0)
