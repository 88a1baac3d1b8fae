"""Teaches the planner to write codes from which a listener can tell the song that was asked for.

The reward needs nobody's judgement: the planner, frozen as it was, reads the codes and is asked for
caption, lyrics and metadata (ops/pmi.py). One step:

    roll out   M answers to each of N prompts, by the compiled decoder under its grammar
    score      PMI of the codes; group advantages; log-probabilities under the frozen reference
    update     clipped ratio of masked and renormalised log-probabilities, plus a divergence   (1)

    L = mean_t -min(rho_t A, clip(rho_t) A) + w mean_t KL_t,    rho = p(token) / p_old(token)    (1)

A token's probability is the one that it was drawn with: among the tokens that the grammar allows,
at the temperature of the draw. Fixed tokens have no probability and no loss. Groups whose answers
are all worth the same are left out of every mean.

How this differs from GRPO (arXiv:2402.03300): the algorithm is a choice (`variant`: GRPO, Dr. GRPO,
DAPO, RLOO, GSPO), DAPO's mean over all tokens by default, since one within each answer is biased
where lengths differ; with one update a rollout the ratio is one, and old probabilities are the
present ones without gradient; the estimator of the divergence is chosen for its gradient.
No scorer learns: a policy that scored itself could forget to guess the text without codes. Several
may score together (`reward.scorers`), so that what only one of them hears counts less.

    python -m train.grpo_planner --config configs/nano/grpo_planner.py   (--dry_run: compile only)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from acestep_jax import weights
from acestep_jax.data import briefs
from acestep_jax.data.briefs import BriefBatch
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn import lora
from acestep_jax.nn.config import PLANNERS
from acestep_jax.ops import policy
from acestep_jax.sampling.decode import Span, Written
from acestep_jax.sampling.scoring import Rescored
from acestep_jax.tasks import tokens as tokens_lib
from acestep_jax.tasks.planning.grammar import Book
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.tasks.request import NUM_CODES
from acestep_jax.training import cli, loop, models, optim, rehearsal_policy, rewards
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.answers import (
    Frozen,
    Setting,
    brief_spec,
    habits,
    make_book,
    make_setting,
    open_briefs,
    policy_params,
    rescore,
    roll_out,
)
from acestep_jax.training.recipes.grpo_planner import GrpoPlanner
from acestep_jax.training.rehearsal_policy import Described
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params
from train import planner

Metrics = dict[str, Array]


class Experience(NamedTuple):
    """What a rollout is learned from; B = N M answers, those to one prompt side by side.

    Attributes:
      advantage: [B].
      mask: decisions that count [B, M].
      reference: log-probabilities under the reference [B, M].
      old: under the policy that wrote them; None where the present one did.
    """

    advantage: Array
    mask: Array
    reference: Array
    old: Array | None


# Rollout, reward, update --------------------------------------------------------------------------


def judge(
    setting: Setting, frozen: Frozen, batch: BriefBatch, written: Written
) -> tuple[rewards.Worth, Rescored]:
    """Scores answers, and evaluates them under the reference."""
    config = setting.config
    reference = rescore(setting, frozen.reference, frozen, batch, written)
    worth = rewards.listen_all(
        config.reward, setting.listeners, frozen.ears(), written, setting.span, batch.sheet
    )
    if config.reward.source == "likelihood":
        worth = worth._replace(rewards=likelihood(setting, written, reference))
    return worth, reference


def likelihood(setting: Setting, written: Written, reference: Rescored) -> Array:
    """Gives the mean log-probability of the codes under the reference, [B].

    Answers without codes count as codes drawn at random.
    """
    span, sung = setting.span, rewards.is_code(written, setting.span)
    count = jnp.sum(sung, axis=1)
    mean = jnp.sum(jnp.where(sung, reference.log_probs, 0.0), axis=1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, -jnp.log(float(span.last - span.first)))


def experience(
    setting: Setting, trained: Params, frozen: Frozen, batch: BriefBatch, written: Written
) -> tuple[Experience, Metrics]:
    """Turns answers into advantages, and the probabilities that the update compares with."""
    config = setting.config
    worth, reference = judge(setting, frozen, batch, written)
    earned, old = worth.rewards, None
    if config.updates > 1 or config.kl == "reward":
        own = policy_params(setting, trained, frozen)
        old = rescore(setting, own, frozen, batch, written).log_probs
    if config.kl == "reward":
        apart = jnp.where(reference.chosen, policy.k1(old, reference.log_probs), 0.0)
        earned = earned - config.kl_weight * jnp.sum(apart, axis=1)
    groups = earned.reshape(-1, config.group)
    advantage, kept = policy.advantages(groups, config.algorithm)
    counted = reference.chosen & trained_tokens(setting, written)
    mask = counted & jnp.repeat(kept, config.group)[:, None]
    metrics = worth.metrics | {
        "reward/total": jnp.mean(worth.rewards),
        "reward/spread": jnp.mean(policy.spread(groups)),
        "reward/best_of_group": jnp.mean(jnp.max(worth.rewards.reshape(groups.shape), axis=1)),
        "groups/kept": jnp.mean(kept),
        **habits(setting, written),
    }
    return Experience(advantage.reshape(-1), mask, reference.log_probs, old), metrics


def policy_objective(
    trained: Params,
    setting: Setting,
    frozen: Frozen,
    batch: BriefBatch,
    written: Written,
    learned: Experience,
) -> tuple[Array, Metrics]:
    """Evaluates (1)."""
    config, mask = setting.config, learned.mask
    own = policy_params(setting, trained, frozen)
    now = rescore(setting, own, frozen, batch, written)
    old = jax.lax.stop_gradient(now.log_probs) if learned.old is None else learned.old
    cap = config.importance_cap
    weighed = policy.importance(old, written.log_probs, cap) if cap else None
    loss, metrics = policy.policy_loss(
        now.log_probs,
        old,
        learned.advantage,
        mask,
        config.algorithm,
        weights=weighed,
        dual=config.dual_clip,
    )
    if config.kl != "reward" and config.kl_weight:
        apart = policy.KL[config.kl](now.log_probs, learned.reference)
        loss = loss + config.kl_weight * policy.average(apart, mask, config.algorithm.average)
    sung = rewards.is_code(written, setting.span)
    far = jax.lax.stop_gradient(policy.k3(now.log_probs, learned.reference))
    metrics |= {
        "loss": loss,
        "kl/codes": policy.average(far, now.chosen & sung, "token"),
        "kl/thought": policy.average(far, now.chosen & ~sung, "token"),
        "entropy/codes": policy.average(now.entropies, now.chosen & sung, "token"),
        "entropy/thought": policy.average(now.entropies, now.chosen & ~sung, "token"),
        "policy/sampler_gap": policy.average(jnp.abs(old - written.log_probs), now.chosen, "token"),
    }
    return loss, metrics


def trained_tokens(setting: Setting, written: Written) -> Array:
    """Tells which written tokens [B, M] the loss counts, where they were drawn."""
    sung = rewards.is_code(written, setting.span)
    return {"all": jnp.ones_like(sung), "thought": ~sung, "codes": sung}[setting.config.trained]


# Steps: the only jit of the file ------------------------------------------------------------------


def make_state(config: GrpoPlanner, trained: Params) -> TrainState:
    """Makes the state before the first step."""
    optimizer = make_optimizer(config, trained)
    key = jax.random.key(config.seed)
    return state_lib.init_state(
        key, {"planner": trained}, {"planner": optimizer}, {"planner": config.optimizer}
    )


def make_optimizer(config: GrpoPlanner, trained: Params) -> Any:
    """Builds the optimizer; decaying rates end with the last update of the run."""
    return optim.make_optimizer(config.optimizer, config.num_steps * config.updates, trained)


class Steps(NamedTuple):
    """The compiled parts of a step; what returns a state donates the one it was given."""

    roll_out: Callable[..., Written]  # (state, frozen, batch)
    judge: Callable[..., tuple[Experience, Metrics]]  # (state, frozen, batch, written)
    update: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, batch, written, learned)
    advance: Callable[[TrainState], TrainState]  # counts the step


def make_steps(setting: Setting, places: TrainState | None = None) -> Steps:
    """Compiles the parts of a step.

    Args:
      setting: configuration and modules.
      places: where the state lives (`mesh.state_shardings`); None for one device.
    """

    def write(state: TrainState, frozen: Frozen, batch: BriefBatch) -> Written:
        key = state_lib.step_key(state)
        return roll_out(setting, state.params["planner"], frozen, batch, key)

    def learn(
        state: TrainState, frozen: Frozen, batch: BriefBatch, written: Written
    ) -> tuple[Experience, Metrics]:
        return experience(setting, state.params["planner"], frozen, batch, written)

    def update(
        state: TrainState, frozen: Frozen, batch: BriefBatch, written: Written, learned: Experience
    ) -> tuple[TrainState, Metrics]:
        given = {"frozen": frozen, "batch": batch, "written": written, "learned": learned}
        loss = functools.partial(policy_objective, setting=setting, **given)
        optimizer = make_optimizer(setting.config, state.params["planner"])
        return state_lib.value_and_update(
            state, "planner", loss, optimizer, setting.config.optimizer
        )

    return Steps(
        roll_out=jax.jit(write),
        judge=jax.jit(learn),
        update=jax.jit(update, donate_argnums=0, out_shardings=(places, None)),
        advance=jax.jit(state_lib.advance, donate_argnums=0, out_shardings=places),
    )


def iterate(
    config: GrpoPlanner, steps: Steps, state: TrainState, frozen: Frozen, batch: BriefBatch
) -> tuple[TrainState, Metrics]:
    """Runs one step."""
    written = steps.roll_out(state, frozen, batch)
    learned, metrics = steps.judge(state, frozen, batch, written)
    for _ in range(config.updates):
        state, more = steps.update(state, frozen, batch, written, learned)
        metrics |= more
    return steps.advance(state), metrics


def make_held_out(
    setting: Setting, frozen: Frozen, book: Book, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives trained -> mean rewards of held-out prompts; prompts and keys are always the same."""
    config = setting.config

    @jax.jit
    def evaluate(trained: Params, frozen: Frozen, batch: BriefBatch, key: Key) -> Metrics:
        written = roll_out(setting, trained, frozen, batch, key)
        worth, _ = judge(setting, frozen, batch, written)
        return worth.metrics | {"reward/total": jnp.mean(worth.rewards)} | habits(setting, written)

    def held_out(trained: Params) -> dict[str, float]:
        batches, tables = open_briefs(config, book, "validation"), []
        for number in range(config.eval_batches):
            batch = mesh_lib.place_batch(next(batches), mesh)
            tables.append(evaluate(trained, frozen, batch, jax.random.key(number)))
        means = jax.tree.map(lambda *parts: float(sum(parts) / len(parts)), *tables)
        return {f"eval/{name}": value for name, value in means.items()}

    return held_out if config.eval_batches else lambda trained: {}


# The run, in the order it happens -----------------------------------------------------------------


class Scorers(NamedTuple):
    """The scorers of a run, None where the start scores: sizes and parameters of each."""

    sizes: tuple[Any, ...]
    params: tuple[Params | None, ...]


def load_scorers(config: GrpoPlanner) -> Scorers:
    """Loads the scorers that the configuration names."""
    found = [
        None if where == "start" else weights.load_qwen3(models.locate(where))
        for where in config.reward.scorers
    ]
    return Scorers(
        tuple(None if network is None else network.config for network in found),
        tuple(None if network is None else network.params for network in found),
    )


def freeze(
    config: GrpoPlanner,
    params: Params,
    scorers: Sequence[Params | None],
    book: Book,
    mesh: jax.sharding.Mesh,
) -> Frozen:
    """Puts on the mesh what never changes, in its own type."""
    reference, *others = (
        None if tree is None else models.cast(tree, config.frozen_dtype)
        for tree in (params, *scorers)
    )
    frozen = Frozen(reference, tuple(others), jax.tree.map(jnp.asarray, book.tables))
    return mesh_lib.place(frozen, frozen_places(frozen, mesh))


def frozen_places(frozen: Frozen, mesh: jax.sharding.Mesh) -> Frozen:
    """Says where on the mesh it lives; the tables are everywhere."""
    return Frozen(
        mesh_lib.parameter_shardings(frozen.reference, mesh),
        tuple(
            None if own is None else mesh_lib.parameter_shardings(own, mesh)
            for own in frozen.scorers
        ),
        jax.tree.map(lambda _: mesh_lib.replicated(mesh), frozen.tables),
    )


def start_of(config: GrpoPlanner, params: Params) -> Params:
    """Gives what is trained at first: the parameters, or adapters that change nothing."""
    if not config.lora:
        return params
    make = jax.jit(functools.partial(lora.init, spec=config.adapter))
    return make(jax.random.key(config.seed), params)


def main(config: GrpoPlanner) -> None:
    """Trains, evaluates, and exports the planner."""
    mesh = mesh_lib.make_mesh(config.mesh)
    begin, scorers = planner.open_planner(config), load_scorers(config)
    sizes = begin.network.config
    vocabulary = Vocabulary.of(begin.tokenizer, sizes.vocab_size)
    setting = make_setting(config, sizes, vocabulary, scorers.sizes)
    book, trained = make_book(config, vocabulary), start_of(config, begin.network.params)
    batches = open_briefs(config, book, "train")

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = freeze(config, begin.network.params, scorers.params, book, mesh)
        trained = mesh_lib.place_params(trained, mesh)
        init = functools.partial(make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (trained,))
        places = shardings(jax.eval_shape(init, trained))
        steps = Steps(*map(run.counted, make_steps(setting, places)))
        held_out = make_held_out(setting, frozen, book, mesh)

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = iterate(config, steps, state, frozen, batch)
            run.end_step(step, state, metrics, batches)
            if step == start or (step + 1) % config.log_every == 0:
                rewards.warn_saturated(config.reward, float(metrics["reward/saturated"]))
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out(state.best("planner")))

        best = state.best("planner")
        run.metrics.note(config.num_steps, held_out(best))
        folder = planner.export(config, begin, best, begin.network.params, run.workdir / "export")
        logging.warning("Planner saved in %s.", folder)


def describe(config: GrpoPlanner) -> Described:
    """Gives a run as shapes; prompts are as long as those of the nano tokenizer."""
    sizes = PLANNERS[config.model.preset]
    tokenizer = tokens_lib.load_tokenizer(str(weights.resolve(NANO_TOKENIZER)))
    vocabulary = Vocabulary.of(tokenizer, PLANNERS["planner_nano"].vocab_size)
    scorers = config.reward.scorers
    setting = make_setting(config, sizes, vocabulary, [None] * len(scorers))
    book = make_book(config, vocabulary)
    ears = tuple(
        dataclasses.replace(one, module=_portable(one.module)) for one in setting.listeners
    )
    setting = setting._replace(module=_portable(setting.module), listeners=ears)
    if sizes.vocab_size != vocabulary.size:  # a released one: codes behind Qwen3's own tokens
        first = sizes.vocab_size - planner.RELEASED_CODES
        setting = setting._replace(span=Span(first, first + NUM_CODES, vocabulary.stop))
    drawn = jax.eval_shape(ears[0].module.init, jax.random.key(0), jnp.zeros((1, 2), int))
    params = drawn["params"]
    trained = jax.eval_shape(functools.partial(start_of, config), params)
    tables = jax.tree.map(lambda x: _as_wide(x, vocabulary.size, sizes.vocab_size), book.tables)
    kept = jax.eval_shape(lambda x: models.cast(x, config.frozen_dtype), params)
    frozen = Frozen(kept, tuple(None if where == "start" else kept for where in scorers), tables)
    return Described(
        state=jax.eval_shape(functools.partial(make_state, config), trained),
        frozen=frozen,
        batch=briefs.batch_shapes(book, brief_spec(config), config.data.batch_size),
        frozen_places=functools.partial(frozen_places, frozen),
        lead=lambda batch: batch.tokens,
        make_steps=functools.partial(make_steps, setting),
    )


def _portable(module: Any) -> Any:
    """Takes an attention that is not this processor's own, one head of one song at a time."""
    return module.clone(attention="portable")


def _as_wide(table: Any, found: int, wanted: int) -> jax.ShapeDtypeStruct:
    """Gives the shape of a table of the grammar for another vocabulary."""
    shape = tuple(wanted if size == found else size for size in table.shape)
    return jax.ShapeDtypeStruct(shape, jnp.asarray(table).dtype)


if __name__ == "__main__":
    cli.run(
        main,
        "configs/nano/grpo_planner.py",
        functools.partial(rehearsal_policy.rehearse, describe),
    )
