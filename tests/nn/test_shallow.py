"""The first layers of a network alone compute what they compute in it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import lora
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.shallow import shallow
from tests import tiny

CONFIG = dataclasses.replace(tiny.CONFIG, num_hidden_layers=5)
DIT = lora.Adapted(DiT(CONFIG))
TOKENS, CONTEXT = tiny.conditions(2, 9)
X = jax.random.normal(jax.random.key(5), (2, 9, CONFIG.audio_acoustic_hidden_dim))


@functools.cache
def params():
    rng = np.random.default_rng(0)
    inputs = (X, jnp.ones(2), CONTEXT, TOKENS)
    shapes = jax.eval_shape(DiT(CONFIG).init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _maps(dit, params, heads):
    apply = functools.partial(dit.apply, {"params": params})
    cross = apply(TOKENS, method="project_condition")
    return apply(X, jnp.full(2, 0.125), CONTEXT, cross, dict(heads), method="cross_attention_maps")


def _adapted():
    adapters = lora.init(jax.random.key(0), params(), lora.LoRA(rank=2))
    adapters = jax.tree.map(lambda x: 0.3 * jnp.ones_like(x), adapters)
    return lora.WithAdapters(params(), lora.collection(adapters, 2.0))


def test_maps_of_a_shallow_network_are_those_of_the_whole():
    layer = 2  # alone in the shallow network, half of a pair in the whole
    whole = _maps(DIT, _adapted(), ((layer, (1, 3)),))
    part = _maps(*shallow(DIT, _adapted(), layer + 1), ((layer, (1, 3)),))
    np.testing.assert_allclose(part[layer], whole[layer], atol=2e-6)  # measured 0 on a processor
    assert np.ptp(whole[layer]) > 0.01


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_the_parameters_kept_are_those_of_a_network_of_that_depth(depth):
    network, kept = shallow(DIT, params(), depth)
    inputs = (X, jnp.ones(2), CONTEXT, TOKENS)
    expected = jax.eval_shape(network.module.init, jax.random.key(0), *inputs)["params"]
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, expected)


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(ValueError, match="it has 5"):
        shallow(DIT, params(), 6)
