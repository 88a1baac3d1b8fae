"""The next token of every item: from scores to a draw, in text, in trees and among the codes."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops import logits as logits_lib
from acestep_jax.ops.grammar import Grammar, State
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling.writing import Carry, Span
from acestep_jax.typing import Array, Key, Params


class Scores(NamedTuple):
    """What a step of text knows: of the tree's candidates, and of the vocabulary where needed.

    Attributes:
      few: raw scores of the candidates [B, K].
      best: the most likely token of all [B]; 0 in steps without free text.
      token, log_prob: what was drawn as free text [B]; 0 in steps without it.
    """

    few: Array
    best: Array
    token: Array
    log_prob: Array


def score_text(
    grammar: Grammar, rules: Rules, due: Array, keys: Key, logits: Array, seen: Array | None
) -> Scores:
    """Draws free text from raw scores of the whole vocabulary [B or 2B, V]."""
    whole = logits_lib.raw(logits, rules, seen)
    log_probs = logits_lib.shape(
        jnp.where(grammar_lib.text_mask(grammar, due), whole, -jnp.inf), rules
    )
    token, log_prob = logits_lib.choose(log_probs, keys, rules.temperature)
    ids = jnp.maximum(grammar_lib.candidates(grammar, due), 0)
    few = jnp.take_along_axis(whole, ids, axis=1)
    return Scores(few, logits_lib.best(whole), token, log_prob)


def score_few(
    module: Any, params: Params, grammar: Grammar, rules: Rules, due: Array, carry: Carry
) -> Scores:
    """Scores the candidates alone: a step in which no item writes free text."""
    ids = jnp.maximum(grammar_lib.candidates(grammar, due), 0)
    rows = carry.hidden.shape[0] // due.shape[0]
    logits = module.apply(
        {"params": params}, carry.hidden, jnp.tile(ids, (rows, 1)), method="token_logits"
    )
    seen = None if carry.seen is None else jnp.take_along_axis(carry.seen, ids, axis=1)
    zeros = jnp.zeros(due.shape, jnp.int32)
    return Scores(logits_lib.raw(logits, rules, seen), zeros, zeros, zeros.astype(jnp.float32))


class Choice(NamedTuple):
    """The next token of every item; all [B] but the state.

    Attributes:
      state: before the token, with captions that ended.
      due: what the grammar asked for.
      token: the answer.
      log_prob: of it.
      told: `due` as `Written` tells it: where the best token is taken, it counts as fixed.
    """

    state: State
    due: Array
    token: Array
    log_prob: Array
    told: Array


def choose_text(
    grammar: Grammar,
    programs: Array,
    state: State,
    due: Array,
    scores: Scores,
    rules: Rules,
    keys: Key,
) -> Choice:
    """Chooses the next token of every item from scores of the present step."""
    due, state = grammar_lib.settle(grammar, programs, state, due, scores.best)
    ids = grammar_lib.candidates(grammar, due)
    log_probs = logits_lib.shape(jnp.where(ids >= 0, scores.few, -jnp.inf), rules)
    tree = grammar_lib.is_tree(grammar, due)
    greedy = tree & grammar.greedy[jnp.clip(due, 0, grammar.num_nodes - 1)]
    temperature = rules.temperature
    if temperature is not None:
        temperature = jnp.where(greedy, 0.0, temperature)
    column, log_prob = logits_lib.choose(log_probs, keys, temperature)
    drawn = jnp.take_along_axis(ids, column[:, None], axis=1)[:, 0]
    text = grammar_lib.is_text(grammar, due)
    token = jnp.where(tree, drawn, jnp.where(text, scores.token, jnp.maximum(-1 - due, 0)))
    log_prob = jnp.where(tree & ~greedy, log_prob, jnp.where(text, scores.log_prob, 0.0))
    return Choice(state, due, token, log_prob, jnp.where(greedy, -1 - token, due))


def choose_code(
    logits: Array, span: Span, num_nodes: int, ends: Array, may_end: Array, rules: Rules, keys: Key
) -> tuple[Array, Array, Array]:
    """Chooses the next audio code or the stop token of every item.

    Args:
      logits: raw [B, Q + 1], the stop token last.
      span: of the codes.
      num_nodes: N of the grammar that `due` is told in.
      ends: [B], the item must stop.
      may_end: [B], it may.
      rules: of drawing.
      keys: [B].

    Returns:
      Token, log-probability and what was due, [B] each.
    """
    codes = span.last - span.first
    is_stop = jnp.arange(codes + 1)[None] == codes
    mask = ~is_stop | may_end[:, None]
    log_probs = logits_lib.shape(jnp.where(mask, logits, -jnp.inf), rules)
    column, log_prob = logits_lib.choose(log_probs, keys, rules.temperature)
    token = jnp.where(ends | (column == codes), span.stop, span.first + column)
    states = jnp.where(may_end, grammar_lib.CODES_OR_STOP, grammar_lib.CODES)
    due = jnp.where(ends, -1 - span.stop, num_nodes + states)
    return token, jnp.where(ends, 0.0, log_prob), due
