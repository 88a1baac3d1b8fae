"""Checkpoints: whole or absent, verified, restored onto any mesh."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.training import checkpoint
from acestep_jax.training import config as config_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from tests.training import toy_run

CONFIG = toy_run.Toy(
    num_steps=6, save_every=2, keep=3, mesh=config_lib.Mesh(data=2, fsdp=2, tensor=2)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps with checkpoints after 2, 4 and 6, and its final state."""
    workdir = tmp_path_factory.mktemp("finished")
    state, _ = toy_run.train(_in(workdir))
    return workdir, state


def _in(workdir, **changes):
    import dataclasses

    return dataclasses.replace(CONFIG, workdir=str(workdir), **changes)


@pytest.fixture
def run_copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def restore(workdir, mesh_config=CONFIG.mesh, config=CONFIG):
    mesh = mesh_lib.make_mesh(mesh_config)
    init, _ = toy_run.make_init(config)
    checkpoints = checkpoint.Checkpoints(workdir)
    batches = toy_run.Sines(config, mesh)
    place = functools.partial(mesh_lib.state_shardings, mesh=mesh)
    state, start = checkpoints.restore_or_init(init, place, batches)
    checkpoints.close()
    return state, start, batches


def test_a_first_state_is_made_where_it_stays(tmp_path):
    # eager code under a mesh makes every array whole on every device
    mesh = mesh_lib.make_mesh(config_lib.Mesh(fsdp=8))
    shapes = jax.eval_shape(toy_run.make_init(CONFIG)[0])
    source = mesh_lib.place_params(
        {"net": toy_run.init_params(jax.random.key(0), CONFIG.width)}, mesh
    )
    made = []

    def init(params):
        made.append(jax.tree.map(lambda x: isinstance(x, jax.core.Tracer), params))
        optimizer = toy_run.make_init(CONFIG)[1]
        key = jax.random.key(CONFIG.seed)
        return state_lib.init_state(key, params, {"net": optimizer}, {"net": CONFIG.net})

    checkpoints = checkpoint.Checkpoints(tmp_path)
    place = functools.partial(mesh_lib.state_shardings, mesh=mesh)
    with jax.set_mesh(mesh):
        state, start = checkpoints.restore_or_init(init, place, source=(source,))
    checkpoints.close()
    assert start == 0 and made and all(jax.tree.leaves(made))
    wanted = jax.tree.leaves(place(shapes))
    for leaf, sharding in zip(jax.tree.leaves(state), wanted, strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    moments = state.optimizer["net"]
    shared = [x for x in jax.tree.leaves(moments) if x.addressable_shards[0].data.size < x.size]
    assert len(shared) >= 4  # two moments of two kernels
    np.testing.assert_array_equal(
        state.params["net"]["up_proj"]["kernel"], source["net"]["up_proj"]["kernel"]
    )


@pytest.mark.parametrize(
    "mesh_config",
    [CONFIG.mesh, config_lib.Mesh(), config_lib.Mesh(fsdp=8), config_lib.Mesh(tensor=4)],
    ids=["same", "one_device", "fsdp8", "tensor4"],
)
def test_a_state_returns_bit_for_bit_on_any_mesh(finished, mesh_config):
    workdir, expected = finished
    state, start, batches = restore(workdir, mesh_config)
    assert start == 6
    assert batches.index == 6
    assert toy_run.digest(state) == toy_run.digest(expected)
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    kernel = state.params["net"]["up_proj"]["kernel"]
    mesh = mesh_lib.make_mesh(mesh_config)
    wanted = mesh_lib.parameter_shardings(state.params["net"], mesh)["up_proj"]["kernel"]
    assert kernel.sharding.is_equivalent_to(wanted, kernel.ndim)


def _largest_file(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _flip(_largest_file(folder / "params")),
        lambda folder: _flip(_largest_file(folder / "optimizer")),
        lambda folder: _largest_file(folder / "params").write_bytes(b"short"),
        lambda folder: _largest_file(folder / "params").unlink(),
        lambda folder: (folder / "checksums.json").unlink(),
        lambda folder: (folder / "checksums.json").write_text("{"),
    ],
    ids=["bit", "bit_of_moments", "truncated", "missing", "no_checksums", "broken_checksums"],
)
def test_a_damaged_checkpoint_is_set_aside_aloud_and_the_one_before_it_used(
    run_copy, damage, caplog, finished
):
    damage(run_copy / "checkpoints" / "6")
    state, start, batches = restore(run_copy)
    assert start == int(state.step) == batches.index == 4
    assert "Checkpoint 6" in caplog.text
    assert "is damaged" in caplog.text
    names = sorted(path.name for path in (run_copy / "checkpoints").iterdir())
    assert names == ["2", "4", "damaged-6"]
    final, _ = toy_run.train(_in(run_copy))  # goes on, and reaches the same end
    assert toy_run.digest(final) == toy_run.digest(finished[1])


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over_silently(run_copy):
    for step in (2, 4, 6):
        _flip(_largest_file(run_copy / "checkpoints" / str(step) / "params"))
    with pytest.raises(checkpoint.CheckpointError, match=r"every .* damaged \(steps \[6, 4, 2\]"):
        restore(run_copy)


def test_another_network_is_refused_array_by_array(run_copy):
    other = toy_run.Toy(num_steps=6, width=32)
    with pytest.raises(checkpoint.CheckpointError) as caught:
        restore(run_copy, config=other)
    assert "params/net/up_proj/kernel: saved float32[16, 64], wanted float32[16, 32]" in str(
        caught.value
    )


def test_the_newest_are_kept_and_those_of_the_period(tmp_path):
    config = _in(tmp_path, num_steps=12, save_every=2, keep=2, keep_period=4)
    toy_run.train(config)
    names = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert names == [4, 8, 10, 12]


def test_parameters_load_apart_from_the_optimizer(run_copy, finished):
    shutil.rmtree(run_copy / "checkpoints" / "4" / "optimizer")  # verified, yet not needed
    state = finished[1]
    average = checkpoint.load_params(run_copy, "net")
    latest = checkpoint.load_params(run_copy, "net", average=False)
    kernel = average["up_proj"]["kernel"]
    np.testing.assert_array_equal(kernel, state.average["net"]["up_proj"]["kernel"])
    np.testing.assert_array_equal(
        latest["up_proj"]["kernel"], state.params["net"]["up_proj"]["kernel"]
    )
    with pytest.raises(checkpoint.CheckpointError, match="no network 'disc', only \\['net'\\]"):
        checkpoint.load_params(run_copy, "disc")
    with pytest.raises(checkpoint.CheckpointError, match="optimizer/.* is missing"):
        checkpoint.load_params(run_copy, "net", step=4)
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint"):
        checkpoint.load_params(run_copy / "elsewhere", "net")


def test_a_state_is_copied_before_save_returns(tmp_path):
    init, optimizer = toy_run.make_init(CONFIG)
    mesh = mesh_lib.make_mesh(CONFIG.mesh)
    state = jax.device_put(init(), mesh_lib.state_shardings(jax.eval_shape(init), mesh))
    expected = toy_run.digest(state)
    step, batches = toy_run.make_step(CONFIG, optimizer), toy_run.Sines(CONFIG, mesh)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(state, batches)
    for _ in range(5):  # donated, and overwritten while the save runs
        state, _ = step(state, next(batches))
    checkpoints.close()
    assert toy_run.digest(restore(tmp_path)[0]) == expected


def test_orbax_is_touched_in_one_file_only():
    root = pathlib.Path(checkpoint.__file__).parents[2]
    users = [
        path.name
        for package in ("acestep_jax", "train", "experiments")
        for path in (root / package).rglob("*.py")
        if "import orbax" in path.read_text() or "from orbax" in path.read_text()
    ]
    assert users == ["checkpoint.py"]
