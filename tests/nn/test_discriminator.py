"""What a discriminator of latents must be true to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.discriminator import FeatureDiscriminator, LatentDiscriminator

LATENT = LatentDiscriminator(widths=(8, 12, 16), blocks=1, layer_scale=1.0)
JUDGE = jax.jit(LATENT.apply)
FEATURES = FeatureDiscriminator(width=8, blocks=1, layer_scale=1.0)


def _inputs(batch=3, frames=16):
    keys = jax.random.split(jax.random.key(0), 3)
    x_t = jax.random.normal(keys[0], (batch, frames, 4))
    condition = jax.random.normal(keys[1], (batch, 5, 6))
    return x_t, jnp.linspace(0.2, 0.9, batch), condition


@pytest.fixture(scope="module")
def latent_params():
    return jax.jit(LATENT.init)(jax.random.key(1), *_inputs())


def test_a_logit_stands_for_a_quarter_of_the_frame_rate(latent_params):
    for frames, segments in ((16, 4), (17, 5), (1, 1)):
        logits, mask = JUDGE(latent_params, *_inputs(frames=frames))
        assert logits.shape == mask.shape == (3, segments)


def test_padding_an_item_does_not_change_its_logits(latent_params):
    x_t, t, condition = _inputs(frames=12)
    alone, _ = JUDGE(latent_params, x_t, t, condition)
    padded = jnp.concatenate([x_t, jnp.full((3, 8, 4), 7.0)], axis=1)
    frame_mask = jnp.broadcast_to(jnp.arange(20) < 12, (3, 20))
    logits, mask = JUDGE(latent_params, padded, t, condition, None, frame_mask)
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0]] * 3)
    np.testing.assert_allclose(logits[:, :3], alone, atol=1e-5)  # float32, other tiling


def test_padded_condition_tokens_do_not_count(latent_params):
    x_t, t, condition = _inputs()
    alone, _ = JUDGE(latent_params, x_t, t, condition)
    padded = jnp.concatenate([condition, jnp.full((3, 2, 6), 9.0)], axis=1)
    mask = jnp.broadcast_to(jnp.arange(7) < 5, (3, 7))
    logits, _ = JUDGE(latent_params, x_t, t, padded, mask)
    np.testing.assert_allclose(logits, alone, atol=1e-5)


def test_logits_depend_on_latents_level_and_condition(latent_params):
    def total(x_t, t, condition):
        return LATENT.apply(latent_params, x_t, t, condition)[0].sum()

    for slope in jax.jit(jax.grad(total, (0, 1, 2)))(*_inputs()):
        assert (jnp.abs(slope) > 0).mean() > 0.99


def test_at_first_the_blocks_are_the_identity_as_their_layer_scale_is_tiny():
    x_t, t, condition = _inputs()
    shallow = LatentDiscriminator(widths=(8,), blocks=0)
    deep = LatentDiscriminator(widths=(8,), blocks=3)
    params = jax.jit(deep.init)(jax.random.key(0), x_t, t, condition)
    kept = {
        "params": {k: v for k, v in params["params"].items() if not k.startswith("stage")},
    }
    plain, _ = jax.jit(shallow.apply)(kept, x_t, t, condition)
    np.testing.assert_allclose(jax.jit(deep.apply)(params, x_t, t, condition)[0], plain, atol=1e-4)


def test_recomputed_blocks_give_the_same_slopes():
    inputs = _inputs()
    params = jax.jit(LATENT.init)(jax.random.key(0), *inputs)

    def slopes(module):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(module.apply(p, *inputs)[0]))))(params)

    again = slopes(LATENT.clone(remat=True))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), slopes(LATENT), again
    )


def test_feature_heads_give_logits_for_every_tapped_layer_and_ignore_padding():
    keys = jax.random.split(jax.random.key(0), 2)
    hidden = {layer: jax.random.normal(keys[i], (2, 6, 10)) for i, layer in enumerate((1, 3))}
    t, condition = jnp.array([0.3, 0.8]), jnp.ones((2, 5, 6))
    params = jax.jit(FEATURES.init)(jax.random.key(1), hidden, t, condition)
    logits, mask = jax.jit(FEATURES.apply)(params, hidden, t, condition)
    assert logits.shape == (2, 2 * 3)
    assert mask.all()
    longer = {k: jnp.concatenate([v, jnp.full((2, 2, 10), 5.0)], 1) for k, v in hidden.items()}
    frame_mask = jnp.broadcast_to(jnp.arange(16) < 12, (2, 16))
    padded, mask = jax.jit(FEATURES.apply)(params, longer, t, condition, None, frame_mask)
    np.testing.assert_allclose(padded[mask > 0].reshape(2, 6), logits, atol=1e-5)
