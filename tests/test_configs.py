"""Every file in configs/ tells its story, and its quick form trains, stops and resumes exactly."""

import dataclasses
import importlib
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from acestep_jax.nn import config as nn_config
from acestep_jax.training import checkpoint, cli, overrides
from acestep_jax.training import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py")


def name(path):
    return str(path.relative_to(ROOT))


def script_of(path):
    """Finds the training script in the command that a config's docstring gives."""
    story = re.match(r'"""(.*?)"""', path.read_text(), re.DOTALL)
    assert story, f"{name(path)} opens without a docstring"
    found = re.search(r"Command:.*?python -m (train\.\w+) --config (\S+)", story[1], re.DOTALL)
    assert found, f"{name(path)} does not say its command: python -m train.… --config {name(path)}"
    assert found[2].rstrip(".,") == name(path)
    return importlib.import_module(found[1])


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_says_its_command_and_explains_its_fields(path):
    assert callable(script_of(path).main)
    for quick in (False, True):
        config = cli.load_config(path, quick=quick)
        assert isinstance(config, config_lib.Run)
        for field, _, text in overrides.leaves(config):
            part = getattr(config, field.partition(".")[0])  # sizes of networks go without
            assert text or type(part).__module__ == nn_config.__name__, f"{field} has no comment"
        assert json.loads(json.dumps(cli.to_json(config))) == cli.to_json(config)


def losses(workdir):
    """Reads the logged values that do not depend on the machine."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    own = ("time/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(own)} for row in rows]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_quick_run_stops_and_resumes_bit_for_bit(path, tmp_path):
    quick = cli.load_config(path, quick=True)
    half = quick.num_steps // 2
    assert half >= 1, "a quick run needs two steps, to stop between them"
    quick = dataclasses.replace(quick, save_every=half, log_every=1, keep=3)
    main = script_of(path).main

    def run(folder):
        config = dataclasses.replace(quick, workdir=str(tmp_path / folder))
        main(config)
        state = checkpoint.load_all(tmp_path / folder)
        return {key: np.asarray(x) for key, x in jax.tree_util.tree_leaves_with_path(state)}

    straight = run("straight")
    assert checkpoint.steps_on_disk(tmp_path / "straight")[-1] == quick.num_steps
    shutil.copytree(tmp_path / "straight", tmp_path / "stopped")
    for step in checkpoint.steps_on_disk(tmp_path / "stopped"):
        if step > half:
            shutil.rmtree(tmp_path / "stopped" / "checkpoints" / str(step))
    resumed = run("stopped")

    assert straight.keys() == resumed.keys()
    for key, value in straight.items():
        assert np.isfinite(value).all(), f"{jax.tree_util.keystr(key)} is not finite"
        np.testing.assert_array_equal(value, resumed[key], jax.tree_util.keystr(key))
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
