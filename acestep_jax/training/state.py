"""Everything a run must remember between two steps, as one pytree.

Networks are entries of dictionaries: `state.params["student"]`, `state.optimizer["student"]`,
`state.average["student"]`. Frozen networks are not part of the state; steps take them as arguments.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from acestep_jax.training import optim
from acestep_jax.training.config import Optimizer
from acestep_jax.typing import Array, Key, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "average", "optimizer", "key", "extra"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run.

    Attributes:
      step: steps done, an int32 scalar.
      params: {network: parameters} of everything that is trained.
      average: {network: moving average of its parameters}; only networks with an ema_decay.
      optimizer: {network: state of its optax optimizer}.
      key: the run's key; a step draws from `step_key(state)`.
      extra: {name: array}, what else a method carries (phase counters, running norms).
    """

    step: Array
    params: dict[str, Params]
    average: dict[str, Params]
    optimizer: dict[str, optax.OptState]
    key: Key
    extra: dict[str, Any]

    def replace(self, **changes: Any) -> "TrainState":
        """Copies the state with some fields changed."""
        return dataclasses.replace(self, **changes)

    def best(self, network: str) -> Params:
        """Gives the parameters to sample with: the average if there is one."""
        return self.average.get(network, self.params[network])


def init_state(
    key: Key,
    params: Mapping[str, Params],
    optimizers: Mapping[str, optax.GradientTransformation],
    configs: Mapping[str, Optimizer],
    extra: Mapping[str, Any] | None = None,
) -> TrainState:
    """Makes the state before the first step; pure, so that `jax.eval_shape` and `jit` take it.

    Args:
      key: the run's key.
      params: {network: initial parameters}.
      optimizers: {network: optimizer}, from `optim.make_optimizer`.
      configs: {network: its Optimizer config}; those with an ema_decay get an average.
      extra: what else the method carries.
    """
    averaged = [name for name in params if configs[name].ema_decay > 0]
    # Copies: a step donates its state, which must not share buffers with itself or a teacher
    params = {name: jax.tree.map(jnp.copy, tree) for name, tree in params.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        average={name: jax.tree.map(jnp.copy, params[name]) for name in averaged},
        optimizer={name: optimizers[name].init(params[name]) for name in params},
        key=jnp.copy(key),
        extra=dict(extra or {}),
    )


def step_key(state: TrainState, purpose: int = 0) -> Key:
    """Derives the key of this step: resuming a run draws the same numbers.

    Args:
      state: the state before the step.
      purpose: a number for each kind of step that shares a step count (critic updates).
    """
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), purpose)


def value_and_update(
    state: TrainState,
    network: str,
    loss: Callable[[Params], tuple[Array, dict[str, Array]]],
    optimizer: optax.GradientTransformation,
    config: Optimizer,
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one optimizer step of one network; the step count stays (see `advance`).

    Args:
      state: the state before.
      network: which entry of `state.params` is trained.
      loss: its parameters -> (scalar, metrics).
      optimizer: from `optim.make_optimizer`.
      config: for the average.

    Returns:
      The state after, and the metrics with "<network>/grad_norm" added.
    """
    gradients, metrics = jax.grad(loss, has_aux=True)(state.params[network])
    return apply_gradients(state, network, gradients, optimizer, config), metrics | {
        f"{network}/grad_norm": optax.global_norm(gradients)
    }


def apply_gradients(
    state: TrainState,
    network: str,
    gradients: Params,
    optimizer: optax.GradientTransformation,
    config: Optimizer,
) -> TrainState:
    """Applies gradients to one network and moves its average, if it has one."""
    old = state.params[network]
    updates, optimizer_state = optimizer.update(gradients, state.optimizer[network], old)
    new = optax.apply_updates(old, updates)
    average = state.average
    if network in average:
        moved = optim.update_average(average[network], new, config.ema_decay, state.step)
        average = average | {network: moved}
    return state.replace(
        params=state.params | {network: new},
        average=average,
        optimizer=state.optimizer | {network: optimizer_state},
    )


def advance(state: TrainState) -> TrainState:
    """Counts one step done."""
    return state.replace(step=state.step + 1)
