"""A tuned planner beside its start: PMI, by the scorer that training had and by another one."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import weights
from acestep_jax.data.briefs import BriefBatch
from acestep_jax.ops import policy
from acestep_jax.sampling.decode import Written
from acestep_jax.tasks.planning.listener import Listener
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.training import answers as answers_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import models, rewards
from acestep_jax.training.answers import Frozen, Setting
from acestep_jax.training.config import Mesh
from acestep_jax.training.recipes.grpo_planner import GrpoPlanner
from acestep_jax.typing import Array, Key, Params
from experiments.rl import gains
from train import grpo_planner, planner

START = "asset:nano/acestep-5Hz-lm-nano"
TUNED = "asset:nano/planner-rl"
PARTS = ("caption", "lyrics", "metadata")


class Stage(NamedTuple):
    """What both are asked.

    Attributes:
      setting: of training, with full weights.
      frozen: the start, which scores too.
      other: a scorer that training never had: a listener and its parameters; None without one.
      prompts: held-out ones.
    """

    setting: Setting
    frozen: Frozen
    other: tuple[Listener, Params] | None
    prompts: list[BriefBatch]


class Answers(NamedTuple):
    """What one planner wrote: P prompts, M answers each; all [P, M].

    Attributes:
      scores: {"pmi", "other scorer", and the parts}.
      habits: {name: value}: divergence a code, entropy, repetition.
    """

    scores: dict[str, np.ndarray]
    habits: dict[str, np.ndarray]


def open_stage(config: GrpoPlanner, prompts: int, scorer: str = "") -> Stage:
    """Loads the start and the other scorer, and opens held-out prompts.

    Raises:
      ValueError: if the prompts are no whole number of batches.
    """
    size = config.data.batch_size
    if prompts % size:
        raise ValueError(f"{prompts} prompts are no whole number of batches of {size}.")
    config = dataclasses.replace(config, lora=False)
    begin = planner.open_planner(config)
    sizes = begin.network.config
    vocabulary = Vocabulary.of(begin.tokenizer, sizes.vocab_size)
    book = answers_lib.make_book(config, vocabulary)
    scorers = grpo_planner.load_scorers(config)
    setting = answers_lib.make_setting(config, sizes, vocabulary, scorers.sizes)
    mesh = mesh_lib.make_mesh(Mesh())
    frozen = grpo_planner.freeze(config, begin.network.params, scorers.params, book, mesh)
    other = None
    if scorer:
        network = weights.load_qwen3(models.locate(scorer))
        ears = answers_lib.make_setting(config, sizes, vocabulary, [network.config])
        other = (ears.listeners[0], network.params)
    batches = answers_lib.open_briefs(config, book, "validation")
    return Stage(setting, frozen, other, [next(batches) for _ in range(prompts // size)])


def load(where: str) -> Params:
    """Loads a planner's parameters."""
    return weights.load_qwen3(models.locate(where)).params


def answer(stage: Stage, params: Params, answers: int, *, seed: int = 0) -> Answers:
    """Writes and scores `answers` answers to every prompt; draws depend on the seed alone."""
    config = dataclasses.replace(stage.setting.config, group=max(answers, 2))
    setting = stage.setting._replace(config=config)

    @jax.jit
    def run(params: Params, frozen: Frozen, batch: BriefBatch, key: Key) -> tuple[Any, Any]:
        written = answers_lib.roll_out(setting, params, frozen, batch, key)
        own, reference = (
            answers_lib.rescore(setting, p, frozen, batch, written)
            for p in (params, frozen.reference)
        )
        scores = score(setting, setting.listeners, frozen.ears(), batch, written)
        if stage.other is not None:
            listener, others = stage.other
            by_other = score(setting, [listener], [others], batch, written)
            scores["other scorer"] = by_other["pmi"]
        sung = rewards.is_code(written, setting.span)
        count = jnp.maximum(jnp.sum(sung, axis=1), 1)
        apart = jnp.where(sung, policy.k3(own.log_probs, reference.log_probs), 0.0)
        same = sung[:, 1:] & sung[:, :-1] & (written.tokens[:, 1:] == written.tokens[:, :-1])
        habits = {
            "kl a code": jnp.sum(apart, axis=1) / count,
            "entropy a code": jnp.sum(jnp.where(sung, own.entropies, 0.0), axis=1) / count,
            "repeated": jnp.sum(same, axis=1) / count,
            "distinct": distinct(written.tokens, sung) / count,
        }
        return scores, habits

    found = []
    for number, batch in enumerate(stage.prompts):
        key = jax.random.fold_in(jax.random.key(seed), number)
        found.append(jax.device_get(run(params, stage.frozen, batch, key)))
    join = functools.partial(_join, members=config.group)
    return Answers(*(jax.tree.map(lambda *x: join(x), *part) for part in zip(*found, strict=True)))


def _join(parts: tuple[np.ndarray, ...], members: int) -> np.ndarray:
    return np.concatenate(parts).reshape(-1, members)


def score(
    setting: Setting,
    listeners: Sequence[Listener],
    params: Sequence[Params],
    batch: BriefBatch,
    written: Written,
) -> dict[str, Array]:
    """Scores answers by listeners, as training does: the total and its parts, [B] each."""
    config, rest = setting.config.reward, (listeners, params, written, setting.span, batch.sheet)
    alone = {}
    for i, name in enumerate(PARTS):
        only = tuple(float(i == j) for j in range(3))
        one = dataclasses.replace(config, weights=only)
        alone[name] = rewards.listen_all(one, *rest).rewards
    return {"pmi": rewards.listen_all(config, *rest).rewards, **alone}


def distinct(tokens: Array, sung: Array) -> Array:
    """Counts the different codes of each answer, [B]."""
    ordered = jnp.sort(jnp.where(sung, tokens, -1), axis=1)
    fresh = (ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return jnp.sum(fresh, axis=1) + (ordered[:, 0] >= 0)


def compare(tuned: Answers, start: Answers) -> dict[str, Any]:
    """Measures what tuning gained by either scorer, part by part, and how answers changed."""
    names = ("pmi", "other scorer")
    found: dict[str, Any] = {
        name: gains.compare(tuned.scores[name], start.scores[name])
        for name in names
        if name in start.scores
    }
    found["parts"] = {
        name: gains.rounded(gains.gain(tuned.scores[name], start.scores[name])) for name in PARTS
    }
    watched = {f"{name}, start": gains.rounded(gains.mean(x)) for name, x in start.habits.items()}
    watched |= {name: gains.rounded(gains.mean(x)) for name, x in tuned.habits.items()}
    return {**found, "watched": watched}
