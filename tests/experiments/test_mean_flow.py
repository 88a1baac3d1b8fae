"""Sampling along average velocities, and the two runs that it compares."""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import timesteps
from acestep_jax.sampling import flow
from acestep_jax.training import scene as scene_lib
from experiments import mean_flow
from experiments.distill import players
from tests import tiny
from tests.train import toys
from train import dit

OPTIONS = argparse.Namespace(
    train_steps=2, shards="+", workdir=pathlib.Path("runs"), prompts=8, reference_steps=4
)
PLAN = mean_flow.plan("average", 0, OPTIONS)


def test_each_step_jumps_by_the_average_velocity_of_its_interval():
    networks, params = tiny.networks(), tiny.params()
    scene = jax.jit(lambda batch: scene_lib.encode(networks, params, batch))(toys.batch())
    stage = players.Stage(networks, params["dit"], [scene], [])
    run = mean_flow.average_sampler(PLAN, stage)
    made = mean_flow.sample_average(stage, run, params["dit"], 2, 3.0, seed=0)

    items, frames, channels = scene.real.shape
    x = flow.initial_noise(flow.item_keys(jnp.arange(items)), frames, channels)
    average = dit.average_field(dit.Setting(PLAN, networks, None), params["dit"], scene)
    first, middle, last = timesteps.time_grid(2, 3.0)
    for t, r in ((first, middle), (middle, last)):
        x = x - (t - r) * average(x, jnp.full(items, t), jnp.full(items, r))
    np.testing.assert_allclose(made, x, atol=2e-5)  # float32, compiled whole or not
    plain = players.sample(stage, params["dit"], 2, 3.0)
    assert np.abs(made - plain).max() > 1e-2  # the interval's length is read


def test_the_two_runs_differ_in_their_target_alone():
    velocity, average = (mean_flow.plan(arm, 0, OPTIONS) for arm in mean_flow.ARMS)
    assert average.mean_flow.on and not velocity.mean_flow.on
    assert velocity.data == average.data and velocity.optimizer == average.optimizer
    assert velocity.trained == average.trained == ("^dit$",)
