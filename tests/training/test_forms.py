"""Full weights and adapters: both start as the teacher, and only what is theirs is trained."""

import dataclasses

import jax
import numpy as np
import pytest

from acestep_jax.nn.lora import LoRA
from acestep_jax.training import forms
from acestep_jax.training import game as game_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.scene import Scene
from tests import tiny
from tests.train import toys

SMALL = LoRA(rank=2, alpha=4.0, dropout=0.0)
LORA = dataclasses.replace(toys.DISTILL, form="lora", adapter=SMALL, fake_adapter=SMALL)


@pytest.fixture(scope="module")
def scene():
    tokens, context = tiny.conditions(batch=2, frames=8)
    real = context[..., : context.shape[-1] // 2]
    return Scene(tokens, None, tiny.params()["null_condition"], context, None, real)


@pytest.mark.parametrize("config", [toys.DISTILL, LORA], ids=["full", "lora"])
def test_every_form_starts_as_the_teacher(config, scene):
    game = game_lib.make_game(config, tiny.networks())
    teacher = tiny.params()["dit"]
    state = game_lib.make_state(game, teacher)
    players = game_lib.seat(game, state.params, {"teacher": teacher})
    assert set(players) == {"student", "fake", "discriminator", "teacher"}

    @jax.jit
    def velocities(players):
        names = ("teacher", "student", "fake")
        fields = [scene_lib.field(game.networks, players[name], scene) for name in names]
        return [field(scene.real, np.full(2, 0.5, np.float32)) for field in fields]

    teachers, *others = velocities(players)
    for other in others:  # one program: zero products are added, nothing else differs
        np.testing.assert_allclose(other, teachers, atol=1e-6)


def test_adapters_are_all_that_is_trained_and_saved():
    game = game_lib.make_game(LORA, tiny.networks())
    state = game_lib.make_state(game, tiny.params()["dit"])
    for name in ("student", "fake"):
        paths = jax.tree_util.tree_leaves_with_path(state.params[name])
        assert {path[-1].key for path, _ in paths} == {"lora_a", "lora_b"}
    two = [jax.tree.leaves(state.params[name]) for name in ("student", "fake")]
    assert any((a != b).any() for a, b in zip(*two, strict=True))  # drawn from keys of their own


def test_merged_adapters_compute_what_adapters_beside_the_base_do(scene):
    game = game_lib.make_game(LORA, tiny.networks())
    teacher = tiny.params()["dit"]
    own = forms.start(LORA, "student", jax.random.key(0), teacher)
    own = jax.tree.map(lambda x: x + 0.1, own)  # B is zero at first
    beside = forms.attach(LORA, "student", own, teacher)
    merged = forms.merge(LORA, "student", own, teacher)
    t = np.full(2, 0.5, np.float32)

    @jax.jit
    def velocity(params):
        return scene_lib.field(game.networks, params, scene)(scene.real, t)

    np.testing.assert_allclose(velocity(merged), velocity(beside), rtol=1e-4, atol=1e-5)  # float32
    assert np.abs(velocity(merged) - velocity(teacher)).max() > 1e-2


def test_adapters_that_cannot_do_their_work_are_refused():
    with pytest.raises(ValueError, match="fake_adapter.rank=1 is below adapter.rank=2"):
        dataclasses.replace(LORA, fake_adapter=dataclasses.replace(SMALL, rank=1))
    with pytest.raises(ValueError, match="drops nothing"):
        dataclasses.replace(LORA, adapter=dataclasses.replace(SMALL, dropout=0.1))
