"""The updates of a distillation: each network under its own optimizer, for as long as it trains.

The student has two, one after the other: the warm-up's, and from the first iteration of matching
one with fresh moments. Optimizers are built where a step is traced; the state holds what they
remember.
"""

from collections.abc import Callable

import jax
import optax

from acestep_jax.training import forms, optim
from acestep_jax.training import state as state_lib
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Params

Metrics = dict[str, Array]
Loss = Callable[[Params], tuple[Array, Metrics]]
"""Parameters of one network, as modules take them -> (scalar, metrics)."""


def num_updates(config: Distill) -> dict[str, int]:
    """Counts the updates of every network in a run, where decaying learning rates end."""
    before, matching = config.warmup, config.num_steps - config.warmup.steps
    return {
        "warmup": before.steps * before.updates,
        "student": matching - before.critic_steps,
        "fake": matching * config.critic_steps,
        "discriminator": matching * config.critic_steps,
    }


def make_rule(config: Distill, rule: str, params: Params) -> optax.GradientTransformation:
    """Builds the optimizer named `rule` (a network, or "warmup" for the student's first)."""
    setting = config.warmup.student if rule == "warmup" else getattr(config, rule)
    return optim.make_optimizer(setting, max(1, num_updates(config)[rule]), params)


def init_state(config: Distill, params: dict[str, Params]) -> TrainState:
    """Makes the state before the first iteration, from {network: initial parameters}."""
    first = {name: name for name in params}
    if config.warmup.steps:
        first["student"] = "warmup"
    rules = {name: make_rule(config, rule, params[name]) for name, rule in first.items()}
    settings = {name: getattr(config, name) for name in params}
    return state_lib.init_state(jax.random.key(config.seed), params, rules, settings)


def update(
    config: Distill,
    state: TrainState,
    name: str,
    loss: Loss,
    *,
    base: Params | None = None,
    rule: str = "",
) -> tuple[TrainState, Metrics]:
    """Takes one optimizer step of one network, under its own optimizer or the one named `rule`.

    The average, where there is one, decays as the network's own setting says in either phase.
    `base` are the teacher's parameters, beside which adapters stand (`forms`).
    """

    def loss_of_own(own: Params) -> tuple[Array, Metrics]:
        return loss(forms.attach(config, name, own, base))

    optimizer = make_rule(config, rule or name, state.params[name])
    return state_lib.value_and_update(state, name, loss_of_own, optimizer, getattr(config, name))


def end_warmup(config: Distill, state: TrainState) -> TrainState:
    """Gives the student its own optimizer, with fresh moments, in place of the warm-up's."""
    student = make_rule(config, "student", state.params["student"])
    fresh = student.init(state.params["student"])
    return state.replace(optimizer=state.optimizer | {"student": fresh})
