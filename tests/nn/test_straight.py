"""The straight start: layers that do nothing, and an output that returns the noisy latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import straight
from tests import tiny

CHANNELS, PATCH = tiny.CONFIG.audio_acoustic_hidden_dim, 2


@pytest.fixture(scope="module")
def params():
    return straight.start_straight(jax.random.key(1), tiny.params()["dit"])


def test_every_layer_begins_as_the_identity(params):
    condition, context = tiny.conditions(2, 6)
    x_t = jax.random.normal(jax.random.key(0), (2, 6, CHANNELS))
    dit = tiny.networks().dit
    _, hidden = dit.apply(
        {"params": params}, x_t, jnp.array([0.3, 0.9]), context, condition, hidden_layers=(0, 1)
    )
    frames = jnp.concatenate([context, x_t], axis=-1).reshape(2, 3, -1)
    kernel, bias = params["proj_in"]["kernel"], params["proj_in"]["bias"]
    entered = frames @ kernel.reshape(-1, kernel.shape[-1]) + bias[None, None]
    for layer in (0, 1):
        np.testing.assert_allclose(hidden[layer], entered, atol=1e-5)


def test_the_output_returns_noisy_latents_and_is_blind_to_the_context(params):
    read, write = params["proj_in"]["kernel"], params["proj_out"]["kernel"]
    through = np.einsum("jcd,kde->jcke", read, write)
    same = np.einsum("jk,ce->jcke", np.eye(PATCH), np.eye(CHANNELS))
    np.testing.assert_allclose(through[:, -CHANNELS:], same, atol=1e-5)
    np.testing.assert_allclose(through[:, :-CHANNELS], 0, atol=1e-5)


def test_shapes_stay_and_other_parameters_too(params):
    before = tiny.params()["dit"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, before)
    side = params["layers"]["pairs"]["full"], before["layers"]["pairs"]["full"]
    np.testing.assert_array_equal(*(x["mlp"]["up_proj"]["kernel"] for x in side))


def test_a_stream_without_room_is_refused():
    with pytest.raises(ValueError, match="2 x 8 latents does not fit a stream of 12 channels"):
        straight.start_straight(jax.random.key(0), {"proj_in": {"kernel": jnp.zeros((2, 24, 12))}})
