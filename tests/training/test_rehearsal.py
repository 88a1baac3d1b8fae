"""A run rehearsed from shapes: what every device keeps, and how programs are read."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import app

from acestep_jax.training import cli, models, rehearsal
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Mesh
from tests import tiny
from tests.train import toys


@pytest.fixture(scope="module")
def run(devices):
    """The toy distillation with the tiny networks, on four devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build", lambda config: tiny.networks())
        shapes = rehearsal.shapes(toys.DISTILL)
    mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2), devices[:4])
    return rehearsal.place(shapes, mesh)


def test_what_stays_is_counted_by_its_shards(run):
    kept = rehearsal.resident(run)
    assert set(kept) == {"trained parameters", "averages", "optimizer", "teacher", "encoders"}
    student = sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * 4
        for leaf in jax.tree.leaves(run.state.params["student"])
    )
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(run.state.params["student"]))
    assert whole / 2 < student < whole  # matrices in two shards, vectors everywhere
    assert kept["averages"] == kept["teacher"] == student
    counters = kept["optimizer"] - 2 * kept["trained parameters"]  # Adam keeps two moments
    assert 0 < counters < 100


def test_batches_are_those_of_the_loader():
    config = dataclasses.replace(toys.DISTILL.data, text_tokens=5, lyric_tokens=6, timbre_frames=6)
    found = rehearsal.batch_shapes(config, tiny.CONFIG)
    for name, value in vars(toys.batch()).items():
        if value is not None:
            assert getattr(found, name).shape == value.shape, name
            assert getattr(found, name).dtype == value.dtype, name


def test_forward_passes_are_told_from_backward_ones():
    text = """
      %a = f32[8] convolution(%x, %w), metadata={op_name="jit(f)/DiT/proj_out/conv_general_dilated"}
      %b = f32[8] convolution(%x, %w), metadata={op_name="jit(f)/transpose(jvp(DiT))/proj_out/conv"}
      %c = f32[8] dot(%x, %w), metadata={op_name="jit(f)/jvp(DiT)/proj_out/dot_general"}
      %d = f32[8] add(%x, %w), metadata={op_name="jit(f)/DiT/proj_out/add"}
      %e = f32[8] dot(%x, %w), metadata={op_name="jit(f)/DiT/proj_in/dot_general"}
    """
    assert rehearsal.forwards(text) == 2


def test_a_trainer_without_a_rehearsal_says_so():
    with pytest.raises(app.UsageError, match="no --dry_run"):
        cli._rehearse(None, None)
