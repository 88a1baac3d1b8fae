"""Tuned models as differences: what changed comes back within its rounding, the rest exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from acestep_jax.tasks import loading
from acestep_jax.weights import CheckpointError, Model, difference, load_model, save_model
from tests import tiny


@pytest.fixture(scope="module")
def base():
    """The tiny model."""
    params = {name: part for name, part in tiny.params().items() if name != "text_encoder"}
    silence = jnp.asarray(np.random.default_rng(0).standard_normal((1, 30, 64)), jnp.float32)
    return Model(tiny.CONFIG, params, silence[..., : tiny.CONFIG.audio_acoustic_hidden_dim])


@pytest.fixture
def folders(base, tmp_path):
    """Folders of the base and of a difference whose DiT alone has moved; and the tuned model."""
    rng = np.random.default_rng(1)

    def moved(leaf):
        return leaf + jnp.asarray(0.01 * rng.standard_normal(leaf.shape), jnp.float32)

    dit = jax.tree.map(moved, base.params["dit"])
    config = dataclasses.replace(base.config, is_turbo=not base.config.is_turbo)
    tuned = Model(config, base.params | {"dit": dit}, base.silence_latent)
    save_model(tmp_path / "base", base)
    difference.save_difference(tmp_path / "tuned", tuned, base, name="../base")
    return tmp_path / "base", tmp_path / "tuned", tuned


def test_a_difference_gives_back_what_moved_and_leaves_the_rest_bit_for_bit(folders, base):
    _, folder, tuned = folders
    found = load_model(folder)
    assert found.config == tuned.config
    for part in base.params:
        if part != "dit":
            jax.tree.map(np.testing.assert_array_equal, found.params[part], base.params[part])

    def close(ours, theirs, before):
        # half a scale: the largest change of an output over 254; vectors but for float32
        bound = np.abs(theirs - before).max() / 254 + 1e-6
        assert np.abs(ours - theirs).max() <= bound

    jax.tree.map(close, found.params["dit"], tuned.params["dit"], base.params["dit"])
    names = load_file(folder / difference.FILE)
    assert all(name.startswith("dit/") for name in names)


def test_a_model_can_be_saved_again_after_its_difference_was_added(folders, tmp_path):
    found = load_model(folders[1])
    save_model(tmp_path / "whole", found)
    again = load_model(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)


def test_everything_that_does_not_fit_is_named_at_once(folders):
    _, folder, _ = folders
    tensors = load_file(folder / difference.FILE)
    codes = next(name for name in tensors if name.endswith(".codes"))
    vector = next(name for name in tensors if "." not in name)
    del tensors[codes.replace(".codes", ".scale")]
    tensors[vector] = np.full_like(tensors[vector], np.nan)
    tensors["dit/none"] = np.zeros(3, np.float32)
    metadata = {"format": "acestep-jax difference", "base": "../base"}
    save_file(tensors, folder / difference.FILE, metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    said = "\n".join(caught.value.problems)
    assert f"missing: {codes.replace('.codes', '.scale')}" in said
    assert f"corrupt: {vector}" in said and "unexpected: dit/none" in said


def test_a_cut_or_foreign_file_is_corrupt(folders):
    _, folder, _ = folders
    file = folder / difference.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)
    save_file({"x": np.zeros(3, np.float32)}, file)
    with pytest.raises(CheckpointError, match="names a base"):
        load_model(folder)


def test_models_of_other_sizes_or_autoencoders_have_no_difference(base, tmp_path):
    grown = Model(base.config, {**base.params, "extra": {"x": jnp.ones(2)}}, base.silence_latent)
    with pytest.raises(ValueError, match="extra/x"):
        difference.save_difference(tmp_path, grown, base, name="x")
    other = Model(base.config, base.params, base.silence_latent + 1)
    with pytest.raises(ValueError, match="different autoencoders"):
        difference.save_difference(tmp_path, other, base, name="x")


def test_the_shipped_student_is_its_teacher_with_another_dit():
    teacher, student = (load_model(loading.SHIPPED[name]) for name in ("nano", "nano_turbo"))
    assert student.config.is_turbo and not teacher.config.is_turbo
    for name, part in teacher.params.items():
        same = jax.tree.map(np.array_equal, part, student.params[name])
        assert all(jax.tree.leaves(same)) == (name != "dit")
