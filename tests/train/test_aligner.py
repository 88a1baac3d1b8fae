"""The aligner: what moves, that attention goes where words are sung, and what is refused."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.overrides import ConfigError
from acestep_jax.training.recipes.aligner import TrainAligner
from configs.nano import aligner as recipe
from configs.nano import grpo_dit as grpo_recipe
from tests import tiny
from tests.train import toys
from train import aligner, dit, grpo_dit
from train.dit import Setting

CONFIG = TrainAligner(
    name="toy",
    num_steps=600,
    heads=((0, (0,)), (1, (1,))),
    levels=(0.0, 0.2),
    optimizer=Optimizer(peak_lr=3e-3, weight_decay=0.0),
    data=Data(num_frames=8, word_times=True),
)
REWARDED = dataclasses.replace(
    grpo_recipe.get_config(quick=True),
    data=dataclasses.replace(Data(), batch_size=2, num_frames=96),
)
SETTING = Setting(CONFIG, tiny.networks(), None)
# token 0 is a tag, token 5 padding; the others are sung one after another
SUNG = np.array([[-1, -1], [0, 2], [2, 4], [4, 6], [6, 8], [-1, -1]], np.int32)


def songs(seed):
    """Two songs in turn, whose latents tell which word is sung: patches of a word are alike."""
    batch = toys.batch(seed=seed)
    which = np.arange(len(batch.latents)) % 2
    voices = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    latents = np.repeat(voices, 2, axis=1)[which] + 0.1 * batch.latents
    words = np.arange(12, dtype=np.int32).reshape(2, 6)[which]
    return dataclasses.replace(
        batch,
        latents=latents,
        frame_mask=np.ones_like(batch.frame_mask),
        lyric_tokens=words,
        lyric_mask=np.ones_like(batch.lyric_mask),
        lyric_frames=np.broadcast_to(SUNG, (len(latents), *SUNG.shape)),
    )


@pytest.fixture(scope="module")
def taught():
    """Parameters, what was kept, and metrics before and after a few steps."""
    parts = tiny.params()
    trained = {name: parts[name] for name in ("dit", "condition_encoder")}
    frozen = {name: tree for name, tree in parts.items() if name not in trained}
    loss = functools.partial(aligner.alignment_loss, CONFIG)
    step = dit.make_train_step(SETTING, trained, None, loss)
    state = dit.make_state(CONFIG, jax.tree.map(np.array, trained))
    evaluate = aligner.make_evaluate(CONFIG, SETTING.networks)
    before = evaluate(parts, songs(99))
    for seed in range(CONFIG.num_steps):
        state, _ = step(state, frozen, songs(seed))
    after = evaluate(frozen | state.params["model"], songs(99))
    return trained, state.params["model"], jax.device_get((before, after))


def test_chosen_heads_come_to_look_at_the_words_that_are_sung(taught):
    *_, (before, after) = taught
    assert after["divergence"] < 0.6 * before["divergence"]
    assert after["on_words"] > 2 * before["on_words"]


def test_other_lyrics_are_not_looked_at(taught):
    *_, (before, after) = taught
    assert before["on_other_lyrics"] > 0.9 * before["on_lyrics"]
    assert after["on_other_lyrics"] < 0.2 * after["on_lyrics"]


def test_the_way_back_to_sound_and_the_text_encoder_are_not_trained(taught):
    before, after, _ = taught
    moved = {
        jax.tree_util.keystr(path): not np.array_equal(old, new)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
    }
    assert not any(is_moved for name, is_moved in moved.items() if "'proj_out'" in name)
    assert any(is_moved for name, is_moved in moved.items() if "cross_attn" in name)
    assert any(is_moved for name, is_moved in moved.items() if "condition_encoder" in name)


def test_a_path_that_is_known_has_no_error_and_tags_take_no_part():
    known = SUNG[None, :, 0] >= 0
    maps = np.full((1, 1, 6, 8), 0.01, np.float32)
    for i, (first, end) in enumerate(SUNG):
        maps[0, 0, i, max(first, 0) : max(end, 0)] = 1.0
    maps[0, 0, 0, 7] = 5.0  # a tag that is looked at does not draw the path
    first, even = aligner.path_starts(maps, known)
    # where nothing speaks against it the path changes rows early: one patch
    assert np.abs(np.asarray(first)[0, 1:5] - [0, 2, 4, 6]).max() <= 1
    np.testing.assert_allclose(np.asarray(even)[0, 1:5], [0, 2, 4, 6])


def test_words_without_times_are_refused():
    with pytest.raises(ValueError, match="teach nothing without their times"):
        dataclasses.replace(CONFIG, data=Data())
    with pytest.raises(ValueError, match="0 <= a <= b <= 1"):
        dataclasses.replace(CONFIG, levels=(0.5, 0.1))


@pytest.mark.slow
def test_a_run_exports_a_package_that_names_its_heads(tmp_path):
    config = dataclasses.replace(recipe.get_config(quick=True), workdir=str(tmp_path / "run"))
    aligner.main(config)
    found = json.loads((tmp_path / "run/export/model/alignment_heads.json").read_text())
    assert found == {"heads": {"1": [0, 1]}}
    assert max(numbers(tmp_path / "run", "eval/divergence")) > 0
    # the package can be a reward: it reads otherwise than the start, from the heads that it names
    reward = dataclasses.replace(REWARDED.reward, aligner=str(tmp_path / "run/export/model"))
    read = {}
    for name, who in (("start", REWARDED.reward), ("aligner", reward)):
        given = {"reward": who, "workdir": str(tmp_path / name)}
        grpo_dit.main(dataclasses.replace(REWARDED, **given))
        read[name] = numbers(tmp_path / name, "reward/aas")
    assert min(map(min, read.values())) > 0 and read["start"] != read["aligner"]


def numbers(workdir, name):
    """Reads the logged values of one metric."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if name in row]


def test_an_aligner_of_another_size_is_refused():
    reward = dataclasses.replace(REWARDED.reward, aligner="asset:nano/acestep-v15-nano")
    model = dataclasses.replace(REWARDED.model, text_weights="asset:nano/text_encoder")
    config = dataclasses.replace(REWARDED, reward=reward, model=model)
    with pytest.raises(ConfigError, match="of other sizes than the policy"):
        grpo_dit.load_aligner(config, tiny.CONFIG, None)
