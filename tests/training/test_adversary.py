"""The two penalties on a steep discriminator, against slopes known in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import distill
from acestep_jax.training import adversary
from acestep_jax.training.recipes.distill import Gan
from acestep_jax.training.scene import Scene
from tests import tiny

SLOPES = jnp.array([0.5, -1.0, 2.0, 0.25])


class Linear:
    """Judges every two frames by a linear function of them: no two logits share a frame."""

    def apply(self, variables, x_t, t, tokens, mask, frame_mask):
        scores = jnp.einsum("BTC,C->BT", x_t, variables["params"])
        return scores.reshape(x_t.shape[0], -1, 2).sum(-1), jnp.ones((x_t.shape[0], 4))


@pytest.fixture(scope="module")
def scene():
    tokens, context = tiny.conditions(batch=2, frames=8)
    real = context[..., : context.shape[-1] // 2]
    return Scene(tokens, None, tiny.params()["null_condition"], context, None, real)


def _loss(gan, scene, key):
    judge = adversary.Adversary(gan, tiny.networks(), Linear())
    generated = jnp.zeros_like(scene.real)
    return jax.jit(lambda k: judge.discriminator_loss(SLOPES, {}, scene, generated, k)[1])(key)


def test_exact_r1_of_a_linear_discriminator_is_its_squared_slope(scene):
    gan = Gan(r1="exact", r1_weight=3.0, contrastive_weight=0.0)
    # each logit has the slope of two frames, and real and generated songs count both
    expected = 3.0 * 2 * 2 * float(jnp.sum(SLOPES**2))
    found = _loss(gan, scene, jax.random.key(0))["loss/r1"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_approximate_r1_is_the_exact_one_on_average(scene):
    gan = Gan(r1="approximate", r1_weight=3.0, contrastive_weight=0.0)
    keys = jax.random.split(jax.random.key(0), 4000)
    judge = adversary.Adversary(gan, tiny.networks(), Linear())
    generated = jnp.zeros_like(scene.real)

    @jax.jit
    def mean(keys):
        def one(key):
            return judge.discriminator_loss(SLOPES, {}, scene, generated, key)[1]["loss/r1"]

        return jnp.mean(jax.lax.map(one, keys))

    expected = 3.0 * 2 * 2 * float(jnp.sum(SLOPES**2))
    # 64,000 squares of normal numbers: a relative standard error of 0.6 %; four of them
    np.testing.assert_allclose(mean(keys), expected, rtol=0.024)


def test_the_slope_of_a_convnet_is_that_of_finite_differences(scene):
    """The sum of the logits of a ConvNeXt, moved along a random direction of the latents."""
    gan = Gan(r1="exact", widths=(8, 8), blocks=1, layer_scale=0.1)
    judge = adversary.make_adversary(gan, tiny.networks())
    params = judge.init(jax.random.key(0), {})
    direction = jax.random.normal(jax.random.key(1), scene.real.shape)
    t = jnp.full(2, 0.5)

    @jax.jit
    def both(x, step):
        judged = judge._judge_all(params, {}, {"real": (x, scene)}, t)
        logits, _ = judge.judge(params, {}, x + step * direction, t, scene)
        return jnp.sum(judged.slopes["real"] * direction), jnp.sum(logits)

    slope, up = both(scene.real, 1e-2)
    _, down = both(scene.real, -1e-2)
    np.testing.assert_allclose(slope, (up - down) / 2e-2, rtol=5e-3)  # float32 differences


def test_a_steeper_discriminator_is_punished_by_either_penalty(scene):
    for r1 in adversary.PENALTIES:
        gan = Gan(r1=r1, widths=(8, 8), blocks=1, layer_scale=0.1)
        judge = adversary.make_adversary(gan, tiny.networks())
        params = judge.init(jax.random.key(0), {})
        steeper = {**params, "head": jax.tree.map(lambda x: 3 * x, params["head"])}

        @jax.jit
        def punished(params, judge=judge):
            generated = jnp.zeros_like(scene.real)
            loss = judge.discriminator_loss(params, {}, scene, generated, jax.random.key(2))
            return loss[1]["loss/r1"]

        assert punished(steeper) > 2 * punished(params) > 0


def test_the_exact_penalty_is_refused_where_it_would_differentiate_a_whole_dit():
    with pytest.raises(ValueError, match="use r1=approximate"):
        Gan(discriminator="features", layers=(1,), r1="exact")
    assert dataclasses.replace(Gan(), r1="exact").r1 == "exact"


def test_exact_r1_adds_up_the_squares_of_an_item():
    slope = jnp.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_allclose(distill.exact_r1(slope), [55.0, 451.0])  # 0..5 and 6..11 squared
