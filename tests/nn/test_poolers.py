"""Poolers to compare with: as large as the released one, and different in what they should be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import poolers
from acestep_jax.nn.config import MODELS
from acestep_jax.nn.tokenizer import AttentionPooler, AudioTokenizer
from tests import tiny

POOLERS = (poolers.MeanPooler, poolers.ConvPooler)


def _size(pooler, config):
    frames = jnp.zeros((1, config.pool_window_size, config.encoder.width))
    shapes = jax.eval_shape(pooler(config).init, jax.random.key(0), frames)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("preset", ["nano", "base"])
def test_all_poolers_are_equally_large(preset, pooler, depth):
    config = dataclasses.replace(MODELS[preset], num_attention_pooler_hidden_layers=depth)
    assert _size(pooler, config) == pytest.approx(_size(AttentionPooler, config), rel=2e-3)


@functools.cache
def _run(pooler):
    module = AudioTokenizer(tiny.CONFIG, pooler=pooler)
    latents = jax.random.normal(jax.random.key(0), (2, 15, 4))
    params = jax.jit(module.init)(jax.random.key(1), latents, latents)
    return jax.jit(lambda x: module.apply(params, x, x, method="pool")), latents


@pytest.mark.parametrize("pooler", POOLERS)
def test_a_window_is_summarised_from_its_own_frames(pooler):
    pool, latents = _run(pooler)
    changed = latents.at[:, 5:10].add(1.0)
    moved = np.abs(pool(latents) - pool(changed)).max((0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, [False, True, False])


def test_only_the_mean_does_not_know_the_order_of_frames():
    moved = {}
    for pooler in (AttentionPooler, *POOLERS):
        pool, latents = _run(pooler)
        backwards = latents.reshape(2, 3, 5, 4)[:, :, ::-1].reshape(latents.shape)
        moved[pooler] = float(np.abs(pool(latents) - pool(backwards)).max())
    assert moved.pop(poolers.MeanPooler) < 1e-5
    assert min(moved.values()) > 1e-3
