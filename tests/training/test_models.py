"""The networks of a run, and the data that they fit."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.data import sources
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import models
from acestep_jax.training.config import Mesh, Model


def loaded_with(silence):
    return models.Loaded(models.build(Model(preset="nano", text_preset="nano")), {}, silence)


def test_weights_and_data_of_one_autoencoder_share_the_weights_silence(caplog):
    of_data = sources.Synthetic(16, seed=0).silence_latent
    of_weights = jnp.tile(jnp.asarray(of_data, jnp.bfloat16), (1, 2, 1))  # longer, and rounded
    with caplog.at_level(logging.WARNING):
        assert models.common_silence(loaded_with(of_weights), of_data) is of_weights
    assert not caplog.records


def test_data_of_another_autoencoder_brings_its_own_silence_and_says_so(caplog):
    of_data = sources.Synthetic(16, seed=0).silence_latent
    with caplog.at_level(logging.WARNING):
        silence = models.common_silence(loaded_with(jnp.asarray(of_data + 0.1)), of_data)
    np.testing.assert_array_equal(silence, of_data)
    assert "another autoencoder" in caplog.text


def test_without_weights_silence_is_that_of_the_data():
    of_data = sources.Synthetic(16, seed=0).silence_latent
    np.testing.assert_array_equal(models.common_silence(loaded_with(None), of_data), of_data)


@pytest.mark.parametrize("weights", ["acestep-v15-nano", "acestep-v15-nano-turbo"])
def test_weights_are_loaded_where_the_rules_want_them(weights):
    model = Model(weights=f"asset:nano/{weights}", text_weights="asset:nano/text_encoder")
    mesh = mesh_lib.make_mesh(Mesh(fsdp=4, tensor=2))
    shared, whole = models.load(model, mesh=mesh).params, models.load(model).params
    places = mesh_lib.parameter_shardings(whole, mesh)

    def check(ours, theirs, place):
        assert ours.sharding.is_equivalent_to(place, ours.ndim)
        np.testing.assert_array_equal(ours, theirs)

    jax.tree.map(check, shared, whole, places)
    largest = max(jax.tree.leaves(shared), key=lambda x: x.nbytes)
    assert all(part.data.nbytes == largest.nbytes // 8 for part in largest.addressable_shards)
