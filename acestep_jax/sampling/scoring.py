"""Tokens that exist already, scored: what decoding drew, under the distribution it drew from.

Logits of a large vocabulary are bigger than the model, so that a few columns are scored at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.grammar import Grammar
from acestep_jax.sampling.decode import Prompts, Span, Written
from acestep_jax.typing import Array, Params


def in_columns(score: Callable[[Any], Any], rows: Any, columns: int) -> Any:
    """Maps `score` over arrays [B, S, ...], some columns of every item at a time.

    Columns and not rows, so that a batch that devices share stays shared. Each part is computed
    again in the backward pass.

    Args:
      score: a tree of [B, c, ...] -> a tree of [B, c, ...].
      rows: a tree of [B, S, ...].
      columns: c; the last part is padded with zeros.
    """
    size = jax.tree.leaves(rows)[0].shape[1]
    columns = min(columns, size)
    missing = -size % columns

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, columns, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :size]

    scored = jax.lax.map(jax.checkpoint(score), jax.tree.map(split, rows))
    return jax.tree.map(join, scored)


class Rescored(NamedTuple):
    """Written tokens under a model; all [B, M].

    Attributes:
      log_probs: of each token, 0 where there was no choice.
      entropies: of the distribution that it was drawn from, 0 where there was no choice.
      chosen: tokens that were drawn: neither fixed by the grammar nor behind the end.
    """

    log_probs: Array
    entropies: Array
    chosen: Array


def rescore(
    module: Any,
    params: Params,
    prompts: Prompts,
    written: Written,
    grammar: Grammar,
    span: Span,
    temperature: float,
    *,
    columns: int = 64,
    codes_only: bool = False,
) -> Rescored:
    """Gives log p of what was written, illegal tokens masked and the rest renormalised.

    The distribution is that of `decode` with this temperature alone: no filter, penalty, guidance.

    Args:
      module: a Qwen3.
      params: of it.
      prompts: [B / copies, T], as they were decoded from.
      written: by `decode`.
      grammar: tables that `written.due` is told in.
      span: of the codes.
      temperature: positive.
      columns: tokens of an item whose logits are held at once.
      codes_only: every token that was drawn is a code; no other rows of the head are read then.
    """
    hidden = _predictors(module, params, prompts, written)
    places = jnp.arange(written.tokens.shape[1])[None]
    chosen = (written.due >= 0) & (places < written.lengths[:, None])
    rows = (span.first, span.last) if codes_only else None

    def score(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        states, tokens, due = part
        logits = module.apply({"params": params}, states, rows, method="logits") / temperature
        if rows is None:
            legal = grammar_lib.allowed(grammar, due, (span.first, span.last), span.stop)
            logits = jnp.where(legal, logits, -jnp.inf)
        return _evaluate(logits, tokens - (0 if rows is None else span.first))

    # What is not counted is scored as if anything were legal: no row may be masked whole
    counted = (
        jnp.where(chosen, written.tokens, span.first),
        jnp.where(chosen, written.due, grammar.num_nodes + grammar_lib.CODES),
    )
    log_probs, entropies = in_columns(score, (hidden, *counted), columns)
    return Rescored(jnp.where(chosen, log_probs, 0.0), jnp.where(chosen, entropies, 0.0), chosen)


def _predictors(module: Any, params: Params, prompts: Prompts, written: Written) -> Array:
    """Runs prompts and answers; gives the state in front of each written token, [B, M, D]."""
    copies = written.tokens.shape[0] // prompts.tokens.shape[0]
    start, budget = prompts.tokens.shape[1], written.tokens.shape[1]
    asked, mask = (jnp.repeat(jnp.asarray(x), copies, axis=0) for x in prompts)
    inside = jnp.arange(budget)[None] < written.lengths[:, None]
    tokens = jnp.concatenate([asked, written.tokens], axis=1)
    real = jnp.concatenate([mask.astype(bool), inside], axis=1)
    hidden = module.apply({"params": params}, tokens[:, :-1], mask=real[:, :-1])
    return hidden[:, start - 1 :]


def _evaluate(logits: Array, tokens: Array) -> tuple[Array, Array]:
    """Gives log p of tokens [...] and the entropy of their rows of logits [..., V]."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    legal = jnp.isfinite(logits)
    finite = jnp.where(legal, log_probs, 0.0)
    return own, -jnp.sum(jnp.where(legal, jnp.exp(finite) * finite, 0.0), axis=-1)
