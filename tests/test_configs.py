"""Every file in configs/ tells its story, and its quick form trains, stops and resumes exactly.

Quick forms of one method are often the same but for their name: recipes differ in sizes and rates,
which quick forms take from `recipes.toys`. Such forms are run once.
"""

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


def quick_form(path):
    """Gives the quick form of a recipe, saved twice, without what does not touch the training."""
    config = cli.load_config(path, quick=True)
    half = config.num_steps // 2
    assert half >= 1, "a quick run needs two steps, to stop between them"
    logged = {"log_every": 1, "save_every": half, "eval_every": 0, "keep": 3, "keep_period": 0}
    return dataclasses.replace(config, name="quick", **logged)


_RARE = ("train.aligner", "train.grpo_dit", "train.lora", "train.tokenizer", "train.vae")
"""Up to a minute each, on the same loop as all others; `tests/train/` has their steps, and
`experiments.faults` kills them."""


def different_forms():
    """Gives one recipe for each quick form, under the names of all that share it.

    Of each training script the first, a nano recipe where there is one, always runs, but for those
    of `_RARE`; the others compile programs of their own and are slow.
    """
    sharing: dict[str, list[pathlib.Path]] = {}
    for path in sorted(CONFIGS, key=lambda path: (path.parent.name != "nano", path)):
        sharing.setdefault(repr(quick_form(path)), []).append(path)
    scripts, params = set(), []
    for paths in sharing.values():
        script = script_of(paths[0])
        marks = [pytest.mark.slow] if script in scripts or script.__name__ in _RARE else []
        params.append(pytest.param(paths[0], id=" ".join(map(name, paths)), marks=marks))
        scripts.add(script)
    return params


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
    """Reads the logged values that depend neither on the machine nor on where a run started."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    own = ("time/", "memory/", "data/")
    return [{k: v for k, v in row.items() if not k.startswith(own)} for row in rows]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", different_forms())
def test_a_quick_run_stops_and_resumes_bit_for_bit(path, tmp_path):
    quick, main = quick_form(path), script_of(path).main

    def run(folder):
        # Traced anew from nothing, a program is the same text, and is found where it was compiled
        jax.clear_caches()
        main(dataclasses.replace(quick, workdir=str(tmp_path / folder)))
        state = checkpoint.load_all(tmp_path / folder)
        return {key: np.asarray(x) for key, x in jax.tree_util.tree_leaves_with_path(state)}

    straight = run("straight")
    assert checkpoint.steps_on_disk(tmp_path / "straight")[-1] == quick.num_steps
    shutil.copytree(tmp_path / "straight", tmp_path / "stopped")
    for step in checkpoint.steps_on_disk(tmp_path / "stopped"):
        if step > quick.save_every:
            shutil.rmtree(tmp_path / "stopped" / "checkpoints" / str(step))
    resumed = run("stopped")

    assert straight.keys() == resumed.keys()
    for key, value in straight.items():
        assert np.isfinite(value).all(), f"{jax.tree_util.keystr(key)} is not finite"
        np.testing.assert_array_equal(value, resumed[key], jax.tree_util.keystr(key))
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
