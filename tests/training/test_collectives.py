"""What compiled programs move: known collectives are read rightly, a train step moves its FSDP."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from acestep_jax.nn import model as model_lib
from acestep_jax.training import collectives
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Mesh, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT
from experiments import collectives as experiment
from tests import tiny
from tests.train import toys

DEEP = dataclasses.replace(  # two scanned pairs: with one, the compiler removes the loop
    tiny.CONFIG,
    hidden_size=64,
    intermediate_size=128,
    head_dim=16,
    fsq_dim=64,
    num_hidden_layers=4,
)


def compiled(function, mesh, *arguments):
    """Compiles for (array, axes of its sharding) pairs."""
    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))
        for x, axes in arguments
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*shapes).compile().as_text()


def test_a_gather_counts_once_a_turn_and_a_sum_in_both_directions():
    mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=4))
    x, kernels = jnp.ones((16, 32)), jnp.ones((5, 32, 32))

    def run(x, kernels):
        y, _ = jax.lax.scan(
            lambda x, w: (mesh_lib.constrain(jnp.tanh(x @ w), mesh_lib.BATCH), None), x, kernels
        )
        return y.sum()

    text = compiled(run, mesh, (x, (mesh_lib.BATCH,)), (kernels, (None, "fsdp")))
    gather, total = sorted(collectives.read(text), key=lambda c: c.kind)
    assert (gather.kind, gather.devices, gather.turns) == ("all-gather", 4, 5)
    assert gather.received == 5 * 32 * 32 * 4 * 3 / 4
    assert (total.kind, total.devices, total.received) == ("all-reduce", 8, 2 * 4 * 7 / 8)
    assert collectives.by_kind([gather, total]) == {
        "all-gather": gather.received,
        "all-reduce": total.received,
    }


def test_a_sum_of_which_each_device_keeps_its_slice_is_a_reduce_scatter():
    mesh = mesh_lib.make_mesh(Mesh(fsdp=8))
    x, y = jnp.ones((16, 32)), jnp.ones((16, 64))

    def gradient(x, y):
        return mesh_lib.constrain(x.T @ y, "fsdp"), jnp.sum(x)

    text = compiled(gradient, mesh, (x, ("fsdp",)), (y, ("fsdp",)))
    moved = collectives.by_kind(collectives.read(text))
    assert moved["reduce-scatter"] == 32 * 64 * 4 * 7 / 8
    assert moved.get("all-reduce", 0) == 2 * 4 * 7 / 8


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"pass compiled\.as_text"):
        collectives.read("module @jit_f {}")


def test_a_train_step_moves_what_fsdp_must_move():
    networks = model_lib.build_networks(DEEP, tiny.TEXT_CONFIG)
    config = TrainDiT(name="toy", optimizer=Optimizer(), num_steps=10)
    mesh, batch = mesh_lib.make_mesh(Mesh(data=2, fsdp=4)), toys.batch(frames=16)
    found = sum(c.received for c in experiment.moved(config, networks, mesh, batch))
    # Activations stay where they are; what is more than wanted are embedded prompts and scalars
    np.testing.assert_allclose(found, experiment.wanted(config, networks, mesh), rtol=0.1)


def test_long_songs_lie_in_shards_along_the_sequence_axis():
    networks, params = tiny.networks(), tiny.params()["dit"]
    tokens, context = tiny.conditions(2, 64)
    noise, t = jax.random.normal(jax.random.key(0), (2, 64, 4)), jnp.array([0.3, 0.8])
    run = jax.jit(lambda params, *rest: networks.dit.apply({"params": params}, *rest))
    arguments = (noise, t, context, tokens)
    expected = run(params, *arguments)
    mesh = mesh_lib.make_mesh(Mesh(data=2, sequence=4))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, mesh_lib.parameter_shardings(params, mesh))
        batch = jax.device_put(arguments, mesh_lib.batch_sharding(mesh))
        program = run.lower(placed, *batch).compile()
        found = program(placed, *batch)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32, sums in another order
    text, width = program.as_text(), tiny.CONFIG.intermediate_size
    assert f"f32[1,8,{width}]" in text  # of 32 patches, each of four devices has 8 in its MLP
    assert f"f32[1,32,{width}]" not in text
