"""The optimizers of a distillation: how long each works, and who follows whom."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.training import updates
from tests.train import toys

CONFIG = dataclasses.replace(
    toys.DISTILL,
    student=dataclasses.replace(toys.OPTIMIZER, peak_lr=1e-3, weight_decay=0.0, ema_decay=0.9),
    warmup=dataclasses.replace(
        toys.DISTILL.warmup,
        student=dataclasses.replace(toys.OPTIMIZER, peak_lr=1e-2, weight_decay=0.0),
    ),
)


def _state():
    params = {name: {"kernel": jnp.ones((2, 3))} for name in ("student", "fake", "discriminator")}
    return updates.init_state(CONFIG, params)


def _slope(params):
    """A loss whose slope is one, so that Adam's step is its learning rate."""
    return jnp.sum(params["kernel"]), {}


def _kernel(state):
    return np.asarray(state.params["student"]["kernel"])


def test_every_network_is_given_the_updates_it_will_make():
    # 4 iterations: one of regression (2 updates), one of critics alone, two whole; 2 critic updates
    expected = {"warmup": 2, "student": 2, "fake": 6, "discriminator": 6}
    assert updates.num_updates(toys.DISTILL) == expected


def test_the_student_changes_its_optimizer_and_keeps_its_average_after_the_warmup():
    state, _ = updates.update(CONFIG, _state(), "student", _slope, rule="warmup")
    np.testing.assert_allclose(_kernel(state), 1 - 1e-2, rtol=1e-5)  # Adam: one rate a step
    averaged = np.asarray(state.average["student"]["kernel"])
    assert (averaged < 1).all()

    state = updates.end_warmup(CONFIG, state)
    np.testing.assert_array_equal(state.average["student"]["kernel"], averaged)
    state, metrics = updates.update(CONFIG, state, "student", _slope)
    np.testing.assert_allclose(_kernel(state), 1 - 1e-2 - 1e-3, rtol=1e-5)
    np.testing.assert_allclose(metrics["student/grad_norm"], 6**0.5, rtol=1e-6)


def test_an_update_of_one_network_leaves_the_others():
    before = _state()
    after, _ = updates.update(CONFIG, before, "fake", _slope)
    assert (after.params["fake"]["kernel"] != before.params["fake"]["kernel"]).all()
    for name in ("student", "discriminator"):
        for left, right in zip(
            jax.tree.leaves((before.params[name], before.optimizer[name])),
            jax.tree.leaves((after.params[name], after.optimizer[name])),
            strict=True,
        ):
            np.testing.assert_array_equal(left, right)
    assert set(after.average) == {"student"}  # the only one with an ema_decay


def test_without_a_warmup_the_student_begins_under_its_own_optimizer():
    config = dataclasses.replace(CONFIG, warmup=dataclasses.replace(CONFIG.warmup, steps=0))
    state = updates.init_state(config, {"student": {"kernel": jnp.ones((2, 3))}})
    state, _ = updates.update(config, state, "student", _slope)
    np.testing.assert_allclose(_kernel(state), 1 - 1e-3, rtol=1e-5)
