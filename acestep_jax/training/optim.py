"""From gradients to new parameters: schedules, clipping, groups by parameter path, averages.

A parameter's path (`dit/layers/pairs/full/self_attn/q_proj/kernel`) decides how it is treated:
`Optimizer.frozen` first, then `Optimizer.groups`; a parameter that no pattern covers is an error,
and so is a frozen pattern that covers nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from acestep_jax.training.config import Optimizer
from acestep_jax.typing import Array, Params


def path_name(path: tuple[Any, ...]) -> str:
    """Joins a key path of `jax.tree_util` with slashes."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def make_schedule(config: Optimizer, num_steps: int) -> optax.Schedule:
    """Builds the learning rate over steps: a linear warm-up, then the schedule to `num_steps`.

    The first update has a rate of peak_lr / warmup_steps, not zero, so that no step is lost.
    """
    decay_steps = max(1, num_steps - config.warmup_steps)
    final = config.final_lr_ratio * config.peak_lr
    after = {
        "constant": optax.constant_schedule(config.peak_lr),
        "cosine": optax.cosine_decay_schedule(config.peak_lr, decay_steps, config.final_lr_ratio),
        "linear": optax.linear_schedule(config.peak_lr, final, decay_steps),
        # the defaults of stable-audio-tools: InverseLR with power 0.5
        "inverse": lambda step: config.peak_lr / jnp.sqrt(1 + step / config.inverse_steps),
    }[config.schedule]
    if config.warmup_steps == 0:
        return after
    start = config.peak_lr / config.warmup_steps
    rise = optax.linear_schedule(start, config.peak_lr, max(1, config.warmup_steps - 1))
    return optax.join_schedules([rise, after], [config.warmup_steps])


def group_parameters(config: Optimizer, params: Params) -> Any:
    """Labels every parameter "decay", "plain" or "frozen".

    Raises:
      ValueError: if a parameter is covered by no pattern, or a frozen pattern covers no parameter.
    """
    rules = [(pattern, "frozen") for pattern in config.frozen] + list(config.groups)
    uncovered: list[str] = []
    used: set[str] = set()

    def label(path: tuple[Any, ...], _: Any) -> str:
        name = path_name(path)
        for pattern, group in rules:
            if re.search(pattern, name):
                used.add(pattern)
                return group
        uncovered.append(name)
        return "plain"

    labels = jax.tree_util.tree_map_with_path(label, params)
    if uncovered:
        raise ValueError(
            f"{len(uncovered)} parameters are covered by no pattern of `groups`: "
            f"{', '.join(uncovered[:8])}{', ...' if len(uncovered) > 8 else ''}. Add a pattern."
        )
    idle = [pattern for pattern in config.frozen if pattern not in used]
    if idle:
        raise ValueError(f"frozen patterns {idle} match no parameter; is the path right?")
    return labels


def make_optimizer(
    config: Optimizer, num_steps: int, params: Params
) -> optax.GradientTransformation:
    """Builds clip -> AdamW (or Muon for the matrices) for the parameters that are not frozen.

    Args:
      config: see `Optimizer`.
      num_steps: updates in the run; decaying schedules end there.
      params: the parameters or their shapes; only paths and ranks are read.
    """
    labels = group_parameters(config, params)
    schedule = make_schedule(config, num_steps)

    def adamw(weight_decay: float) -> optax.GradientTransformation:
        return optax.adamw(
            schedule, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=weight_decay
        )

    decayed = adamw(config.weight_decay)
    if config.name == "muon":
        decayed = muon(
            lambda step: config.muon_lr_ratio * schedule(step),
            weight_decay=config.weight_decay / config.muon_lr_ratio,
            muon_weight_dimension_numbers=muon_dimensions,
        )
    branches = {"decay": decayed, "plain": adamw(0.0), "frozen": optax.set_to_zero()}
    rule = optax.partition(branches, labels)
    if config.clip_norm > 0:
        rule = optax.chain(_clip_trained(config.clip_norm, labels), rule)
    return rule


def _clip_trained(max_norm: float, labels: Any) -> optax.GradientTransformation:
    """Clips by the global norm of the gradients of the parameters that are not frozen."""
    trained = jax.tree.map(lambda group: group != "frozen", labels)
    return optax.masked(optax.clip_by_global_norm(max_norm), trained)


def muon_dimensions(params: Params) -> Any:
    """Says which axes of each weight Muon treats as a matrix: the inputs against the outputs.

    Convolutions `[*k, in, out]` are orthogonalised as (k in, out); scanned matrices
    `[layer, in, out]` one by one.
    """

    def dimensions(path: tuple[Any, ...], value: Any) -> MuonDimensionNumbers | None:
        name = path_name(path)
        if value.ndim < 2:
            return None
        if re.search(r"(^|/)(weight_v|proj_in/kernel|proj_out/kernel)$", name):
            taps_and_inputs = tuple(range(value.ndim - 1))
            return MuonDimensionNumbers(taps_and_inputs, output_axis=value.ndim - 1)
        return MuonDimensionNumbers(reduction_axis=value.ndim - 2, output_axis=value.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def update_average(average: Params, params: Params, decay: float, step: Array) -> Params:
    """Moves an average towards the parameters: a' = d a + (1 - d) p.

    d = min(decay, (1 + step) / (10 + step)): the first steps forget the initial values quickly.
    Source: the ramp of tf.train.ExponentialMovingAverage.
    """
    step = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: a * d + p * (1 - d), average, params)


def learning_rates(
    configs: Mapping[str, Optimizer], num_steps: int, step: Array
) -> dict[str, Array]:
    """Evaluates the schedules at `step`, for the log: {"<network>/lr": rate}."""
    return {
        f"{name}/lr": jnp.asarray(make_schedule(c, num_steps)(step)) for name, c in configs.items()
    }
