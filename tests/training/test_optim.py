"""Schedules, groups by path, Muon on stacked weights, averages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acestep_jax.training import optim
from acestep_jax.training.config import Optimizer


def test_schedules_rise_linearly_and_fall_as_named():
    rates = {
        name: optim.make_schedule(
            Optimizer(peak_lr=2.0, warmup_steps=4, schedule=name, final_lr_ratio=0.1), 104
        )
        for name in ("constant", "linear", "cosine")
    }
    for rate in rates.values():
        np.testing.assert_allclose(
            [rate(i) for i in range(5)], [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-6
        )
    # Halfway through the decay: the mean of 2 and 0.2 for both; at the end a tenth
    np.testing.assert_allclose(rates["constant"](104), 2.0)
    np.testing.assert_allclose([rates["linear"](54), rates["linear"](104)], [1.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose([rates["cosine"](54), rates["cosine"](104)], [1.1, 0.2], rtol=1e-6)
    assert float(optim.make_schedule(Optimizer(peak_lr=2.0), 10)(0)) == 2.0
    inverse = Optimizer(peak_lr=2.0, schedule="inverse", inverse_steps=100)
    rate = optim.make_schedule(inverse, 10)
    np.testing.assert_allclose([rate(0), rate(300)], [2.0, 1.0], rtol=1e-6)  # 1 / sqrt(1 + 3)


def tree():
    key = jax.random.key(0)
    return {
        "layers": {"q_proj": {"kernel": jax.random.normal(key, (3, 4, 6))}},
        "norm": {"weight": jnp.ones(4)},
        "old": {"kernel": jax.random.normal(key, (4, 4))},
    }


def test_groups_follow_the_parameter_paths():
    labels = optim.group_parameters(Optimizer(frozen=("^old/",)), tree())
    assert labels["layers"]["q_proj"]["kernel"] == "decay"
    assert labels["norm"]["weight"] == "plain"
    assert labels["old"]["kernel"] == "frozen"


def test_uncovered_parameters_and_idle_patterns_are_refused():
    with pytest.raises(ValueError, match="1 parameters are covered by no pattern .*: norm/gain"):
        optim.group_parameters(Optimizer(), {"norm": {"gain": jnp.ones(2)}})
    with pytest.raises(ValueError, match=r"\['\^older/'\] match no parameter"):
        optim.group_parameters(Optimizer(frozen=("^older/",)), tree())


def test_adamw_takes_the_textbook_step_and_leaves_the_frozen_alone():
    config = Optimizer(peak_lr=0.1, weight_decay=0.5, clip_norm=0.0, frozen=("^old/",))
    params = tree()
    optimizer = optim.make_optimizer(config, 10, params)
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)  # gradient = parameter
    kernel = params["layers"]["q_proj"]["kernel"]
    # First AdamW step: m/sqrt(v) is the sign of the gradient
    expected = -0.1 * (jnp.sign(kernel) + 0.5 * kernel)
    np.testing.assert_allclose(updates["layers"]["q_proj"]["kernel"], expected, atol=1e-6)
    np.testing.assert_allclose(updates["norm"]["weight"], -0.1 * np.ones(4), atol=1e-6)
    assert float(jnp.abs(updates["old"]["kernel"]).max()) == 0.0
    # No moments are kept for what is frozen: two for 72 + 4 parameters, and two counters
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * 76 + 4


def test_clipping_ignores_frozen_gradients():
    config = Optimizer(clip_norm=1.0, frozen=("^old/",))
    params = tree()
    labels = optim.group_parameters(config, params)
    clip = optim._clip_trained(1.0, labels)
    gradients = jax.tree.map(jnp.ones_like, params)
    clipped, _ = clip.update(gradients, clip.init(params), params)
    trained = {name: clipped[name] for name in ("layers", "norm")}
    np.testing.assert_allclose(optax.global_norm(trained), 1.0, rtol=1e-6)


def test_muon_treats_a_stack_layer_by_layer():
    config = Optimizer(name="muon", peak_lr=0.1, clip_norm=0.0, weight_decay=0.0)
    stacked = tree()["layers"]
    optimizer = optim.make_optimizer(config, 10, stacked)
    whole, _ = optimizer.update(stacked, optimizer.init(stacked), stacked)
    for i in range(3):
        layer = jax.tree.map(lambda x: x[i], stacked)  # noqa: B023
        single = optim.make_optimizer(config, 10, layer)
        update, _ = single.update(layer, single.init(layer), layer)
        kernel = update["q_proj"]["kernel"]
        # Measured 0: the same float32 iteration, batched or not
        np.testing.assert_allclose(whole["q_proj"]["kernel"][i], kernel, atol=1e-6)
        spread = jnp.linalg.svd(kernel, compute_uv=False)
        assert float(spread.max() / spread.min()) < 2.0  # orthogonalised, as far as Muon does


def test_muon_folds_the_taps_of_a_convolution_into_its_inputs():
    params = {"conv1": {"weight_v": jax.random.normal(jax.random.key(1), (3, 4, 6))}}
    dimensions = optim.muon_dimensions(params)["conv1"]["weight_v"]
    assert dimensions.reduction_axis == (0, 1)
    assert dimensions.output_axis == 2
    config = Optimizer(name="muon", clip_norm=0.0)
    optimizer = optim.make_optimizer(config, 10, params)
    update, _ = optimizer.update(params, optimizer.init(params), params)
    matrix = np.asarray(update["conv1"]["weight_v"]).reshape(12, 6)
    spread = np.linalg.svd(matrix, compute_uv=False)
    assert spread.max() / spread.min() < 2.0


def test_the_average_starts_fast_and_ends_at_its_decay():
    params, average = {"a": jnp.ones(2)}, {"a": jnp.zeros(2)}
    first = optim.update_average(average, params, 0.999, jnp.int32(0))
    np.testing.assert_allclose(first["a"], 0.9, rtol=1e-6)  # 1 - (1 + 0) / (10 + 0)
    late = optim.update_average(average, params, 0.999, jnp.int32(10**6))
    np.testing.assert_allclose(late["a"], 1 - 0.999, rtol=1e-4)


def test_learning_rates_are_reported_by_network():
    configs = {"net": Optimizer(peak_lr=3.0), "disc": dataclasses.replace(Optimizer(), peak_lr=1.0)}
    rates = optim.learning_rates(configs, 10, jnp.int32(5))
    assert {name: float(rate) for name, rate in rates.items()} == {"net/lr": 3.0, "disc/lr": 1.0}
