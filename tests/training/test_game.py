"""The end of a distillation: what is exported opens again, in every layout and form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax import weights
from acestep_jax.nn.lora import LoRA
from acestep_jax.training import forms, models
from acestep_jax.training import game as game_lib
from acestep_jax.weights import adapters
from tests import tiny
from tests.train import toys

SMALL = LoRA(rank=2, alpha=4.0, dropout=0.0)
MODEL = dataclasses.replace(
    toys.DISTILL.model, export_dtype="float32", export_layouts=("official", "diffusers")
)
FULL = dataclasses.replace(toys.DISTILL, model=MODEL)
ADAPTED = dataclasses.replace(FULL, form="lora", adapter=SMALL, fake_adapter=SMALL)


@pytest.mark.parametrize("config", [FULL, ADAPTED], ids=["full", "lora"])
def test_a_student_is_exported_as_a_few_step_model_in_every_layout(config, tmp_path):
    loaded = models.Loaded(tiny.networks(), tiny.params(), None)
    game = game_lib.make_game(config, loaded.networks)
    frozen = game_lib.separate(config, loaded.params)
    state = game_lib.make_state(game, frozen["teacher"])
    moved = jax.tree.map(lambda x: x + 0.01, state.average["student"])
    state = state.replace(average={"student": moved})
    silence = np.random.default_rng(0).standard_normal((1, 15_000, 4)).astype(np.float32)

    game_lib.export(game, loaded, state, frozen, silence, tmp_path)
    merged = forms.merge(config, "student", moved, frozen["teacher"])
    for name in ("model", "model_diffusers"):
        found = weights.load_model(tmp_path / "export" / name)
        assert found.config.is_turbo and found.config.model_version == "turbo"
        for left, right in zip(*map(jax.tree.leaves, (found.params["dit"], merged)), strict=True):
            np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(found.silence_latent, silence)
    folders = sorted(path.name for path in (tmp_path / "export").glob("adapters/*"))
    assert folders == (sorted(adapters.LAYOUTS) if config.form == "lora" else [])
    if folders:
        found = adapters.load_adapter(tmp_path / "export" / "adapters" / "official", tiny.CONFIG)
        assert found.spec.rank == 2 and found.spec.alpha == 4.0
        for left, right in zip(*map(jax.tree.leaves, (found.params, moved)), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_teacher_without_strength_is_not_guided():
    assert game_lib.steering(dataclasses.replace(FULL, guidance_scale=1.0)).rule == "none"
    steering = game_lib.steering(dataclasses.replace(FULL, guidance_rule="apg"))
    assert (steering.rule, steering.scale) == ("apg", FULL.guidance_scale)


def test_frozen_networks_are_kept_in_their_own_precision():
    config = dataclasses.replace(FULL, model=dataclasses.replace(MODEL, frozen_dtype="bfloat16"))
    frozen = game_lib.separate(config, tiny.params())
    game = game_lib.make_game(config, tiny.networks())
    state = game_lib.make_state(game, frozen["teacher"])
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
