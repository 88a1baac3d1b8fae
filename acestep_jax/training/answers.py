"""Answers of a planner for reinforcement: written in groups, and scored as they were drawn.

setting = make_setting(config, sizes, vocabulary)
written = roll_out(setting, trained, frozen, batch, key)        # M answers to each of N prompts
rescore(setting, params, frozen, batch, written).log_probs      # by any parameters
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.data import sources
from acestep_jax.data.briefs import BriefBatch, BriefBatches, BriefSpec
from acestep_jax.nn import lora
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops.grammar import Grammar
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode, scoring
from acestep_jax.sampling.decode import Prompts, Span, Written
from acestep_jax.sampling.scoring import Rescored
from acestep_jax.tasks.planning import grammar
from acestep_jax.tasks.planning.grammar import Book, Rulebook
from acestep_jax.tasks.planning.listener import Listener
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.tasks.request import CODES_PER_SECOND
from acestep_jax.training import rewards
from acestep_jax.training.recipes.grpo_planner import GrpoPlanner
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]


class Setting(NamedTuple):
    """What steps need besides arrays.

    Attributes:
      config: the run.
      module: the policy, which takes adapters beside its parameters with `lora`.
      listeners: one a scorer; their modules are Qwen3s, perhaps of other sizes.
      span: of the codes.
    """

    config: GrpoPlanner
    module: Any
    listeners: tuple[Listener, ...]
    span: Span


class Frozen(NamedTuple):
    """What never changes: parameters of reference and scorers, and the grammar's tables.

    With `lora` the reference is also what adapters stand beside; among the scorers None stands for
    the reference.
    """

    reference: Params
    scorers: tuple[Params | None, ...]
    tables: Grammar

    def ears(self) -> list[Params]:
        """Gives the parameters of every scorer."""
        return [self.reference if own is None else own for own in self.scorers]


def roll_out(
    setting: Setting, trained: Params, frozen: Frozen, batch: BriefBatch, key: Key
) -> Written:
    """Writes M answers to every prompt; [N M, ...]."""
    asking, members = setting.config.asking, setting.config.group
    count = batch.tokens.shape[0] * members
    most = asking.seconds[1] * CODES_PER_SECOND
    given = (setting.module, policy_params(setting, trained, frozen), prompts_of(batch))
    keys = jax.random.split(key, count)
    rules = Rules(jnp.full(count, asking.temperature, jnp.float32))
    codes = jnp.repeat(batch.codes, members)
    if asking.plan == "given":
        nodes = frozen.tables.num_nodes
        return decode.decode_codes(
            *given,
            keys,
            setting.span,
            (codes, codes),
            rules,
            budget=most + 1,
            copies=members,
            num_nodes=nodes,
        )
    return decode.decode_song(
        *given,
        keys,
        frozen.tables,
        jnp.repeat(batch.programs, members, axis=0),
        codes // CODES_PER_SECOND,
        setting.span,
        (rules, rules),
        budget=(asking.plan_tokens, most),
        copies=members,
    )


def rescore(
    setting: Setting, params: Params, frozen: Frozen, batch: BriefBatch, written: Written
) -> Rescored:
    """Evaluates what was written under some parameters, as it was drawn."""
    return scoring.rescore(
        setting.module,
        params,
        prompts_of(batch),
        written,
        frozen.tables,
        setting.span,
        setting.config.asking.temperature,
        columns=setting.config.columns,
        codes_only=setting.config.asking.plan == "given",
    )


def habits(setting: Setting, written: Written) -> Metrics:
    """Measures how answers look: lengths, and how much codes repeat themselves."""
    sung = rewards.is_code(written, setting.span)
    pairs = sung[:, 1:] & sung[:, :-1]
    same = pairs & (written.tokens[:, 1:] == written.tokens[:, :-1])
    return {
        "answers/tokens": jnp.mean(written.lengths.astype(jnp.float32)),
        "answers/codes": jnp.mean(jnp.sum(sung, axis=1, dtype=jnp.float32)),
        "answers/unfinished": jnp.mean(~written.finished),
        "answers/repeated": jnp.sum(same) / jnp.maximum(jnp.sum(pairs), 1),
    }


def prompts_of(batch: BriefBatch) -> Prompts:
    """Gives the prompts as decoding takes them."""
    return Prompts(batch.tokens, batch.mask)


def policy_params(setting: Setting, trained: Params, frozen: Frozen) -> Params:
    """Gives what the policy is applied with: its own parameters, or the reference with adapters."""
    if not setting.config.lora:
        return trained
    scale = setting.config.adapter.scale
    return lora.WithAdapters(frozen.reference, lora.collection(trained, scale))


def make_setting(
    config: GrpoPlanner, sizes: Any, vocabulary: Vocabulary, scorer_sizes: Sequence[Any] = (None,)
) -> Setting:
    """Builds policy and listeners.

    Args:
      config: the run.
      sizes: of the policy.
      vocabulary: of all.
      scorer_sizes: of each scorer; None for those of the policy.
    """
    options = {"dtype": jnp.dtype(config.model.dtype), "remat": config.model.remat}
    reward, first = config.reward, vocabulary.first_code
    hearing = {"top_k": reward.top_k, "recall": reward.recall, "columns": config.columns}
    listeners = tuple(
        Listener.of(Qwen3(own or sizes, **options), vocabulary, **hearing) for own in scorer_sizes
    )
    span = Span(first, first + vocabulary.num_codes, vocabulary.stop)
    module = Qwen3(sizes, **options)
    return Setting(config, lora.Adapted(module) if config.lora else module, listeners, span)


def make_book(config: GrpoPlanner, vocabulary: Vocabulary) -> Book:
    """Builds the grammar of this run's thoughts."""
    rules = Rulebook(
        caption_tokens=config.asking.caption_tokens, seconds=(10, config.asking.seconds[1])
    )
    return grammar.build(vocabulary, rules)


def open_briefs(config: GrpoPlanner, book: Book, split: str) -> BriefBatches:
    """Opens the songs of a split as prompts."""
    return BriefBatches(
        sources.open_songs(config.data.shards, split, seed=config.seed),
        book,
        brief_spec(config),
        seed=config.seed + (split != "train"),
        batch_size=config.data.batch_size,
        process=(jax.process_index(), jax.process_count()),
    )


def brief_spec(config: GrpoPlanner) -> BriefSpec:
    """Says how this run's prompts are made."""
    asking = config.asking
    return BriefSpec(
        plan=asking.plan,
        seconds=asking.seconds,
        prompt_tokens=asking.prompt_tokens,
        sheet_tokens=asking.sheet_tokens,
        as_trained=config.reward.as_trained,
    )
