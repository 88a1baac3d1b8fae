"""The warm-up: songs of the guided teacher, and the lines that lead to them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.training import game as game_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import warmup
from acestep_jax.training.scene import Scene
from tests import tiny
from tests.train import toys

CONFIG = dataclasses.replace(
    toys.DISTILL,
    guidance_scale=3.0,
    shift_law="2",
    step_law="2",
    warmup=dataclasses.replace(toys.DISTILL.warmup, teacher_steps=1),
)


@pytest.fixture(scope="module")
def scene():
    tokens, context = tiny.conditions(batch=2, frames=8)
    real = context[..., : context.shape[-1] // 2]
    mask = jnp.arange(8)[None] < jnp.array([[8], [5]])
    return Scene(tokens, None, tiny.params()["null_condition"], context, mask, real)


def test_an_end_point_of_one_step_is_the_guided_teachers_first_estimate(scene):
    networks, teacher = tiny.networks(), tiny.params()["dit"]
    game = game_lib.make_game(CONFIG, networks)
    state = game_lib.make_state(game, teacher)

    @jax.jit
    def compare(teacher):
        noise, song = warmup.end_points(game, state, {"teacher": teacher}, scene)
        conditional, null = (
            field(networks, teacher, scene)(noise, jnp.ones(2))
            for field in (scene_lib.field, scene_lib.null_field)
        )
        return noise - song, null + 3.0 * (conditional - null)

    np.testing.assert_allclose(*compare(teacher), atol=1e-5)  # float32, velocities of a few units


def test_the_regression_is_the_error_on_the_line_at_a_level_of_the_grid(scene):
    networks, student = tiny.networks(), tiny.params()["dit"]
    noise, song = jax.random.normal(jax.random.key(0), (2, *scene.real.shape))

    @jax.jit
    def compare(student):
        loss, _ = warmup.regression_loss(
            student, CONFIG, networks, scene, (noise, song), jax.random.key(1)
        )
        levels = jnp.array([[1.0, 1.0], [1.0, 2 / 3], [2 / 3, 1.0], [2 / 3, 2 / 3]])
        return loss, jax.lax.map(lambda t: at(student, t), levels)  # two steps, shift 2

    def at(student, t):
        x_t = t[:, None, None] * noise + (1 - t[:, None, None]) * song
        velocity = scene_lib.field(networks, student, scene)(x_t, t)
        error = jnp.mean((velocity - (noise - song)) ** 2, axis=-1)
        return jnp.sum(error * scene.frame_mask) / jnp.sum(scene.frame_mask)

    loss, at_levels = compare(student)
    assert np.abs(at_levels - loss).min() < 1e-5 * loss
    assert np.ptp(at_levels) > 1e-2 * loss  # the levels can be told apart
