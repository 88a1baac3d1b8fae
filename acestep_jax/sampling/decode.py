"""Writes tokens with a causal model: prefill, then one compiled loop, under a grammar.

    plan = decode_text(module, params, prompts, keys, grammar, programs, seconds, rules, budget=600)
    song = decode_codes(module, params, prompts, keys, span, lengths, rules, budget=301)

Prompts are padded on the left, so that all items stand at the same slot. With guidance there are
twice as many of them, conditional rows first; both halves share one cache and read the same tokens.
Items end on their own; those that have ended write padding that nobody attends to. What an item
draws depends on its own key, its own logits and the number of tokens it has written: its place in
the batch and its neighbours change nothing but rounding.

Scores of the whole vocabulary are computed only in steps in which some item writes free text; trees
score their few candidates, audio codes their own rows of the head.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.nn.qwen3 import apart
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops import logits as logits_lib
from acestep_jax.ops.grammar import Grammar, State
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling.choices import choose_code, choose_text, score_few, score_text
from acestep_jax.sampling.writing import (
    Carry,
    Prompts,
    Span,
    Written,
    begin,
    head,
    pad_prompts,
    token_keys,
    write,
)
from acestep_jax.typing import Array, Key, Params

__all__ = ["Prompts", "Span", "Written", "decode_codes", "decode_song", "decode_text"]
__all__ += ["choose_code", "choose_text", "pad_prompts", "score_text"]

# Loops --------------------------------------------------------------------------------------------


def _text_loop(
    module: Any,
    params: Params,
    carry: Carry,
    keys: Key,
    grammar: Grammar,
    programs: Array,
    seconds: Array,
    rules: Rules,
    budget: int,
) -> Carry:
    def step(both: tuple[Carry, State]) -> tuple[Carry, State]:
        carry, state = both
        due, state = grammar_lib.look(grammar, programs, state)
        own = token_keys(keys, carry)
        active = ~carry.written.finished
        scores = jax.lax.cond(
            jnp.any(grammar_lib.is_text(grammar, due) & active),
            lambda: score_text(
                grammar, rules, due, own, head(module, params, carry.hidden), carry.seen
            ),
            lambda: score_few(module, params, grammar, rules, due, carry),
        )
        chosen = choose_text(grammar, programs, state, due, scores, rules, own)
        carry = write(module, params, carry, chosen.token, chosen.log_prob, chosen.told)
        due = jnp.where(active, chosen.due, _end(grammar))
        state = grammar_lib.advance(grammar, chosen.state, due, chosen.token)
        ahead, _ = grammar_lib.look(grammar, programs, state)
        finished = carry.written.finished | (ahead == _end(grammar))
        written = carry.written._replace(finished=finished, seconds=state.seconds)
        return carry._replace(written=written), state

    def goes_on(both: tuple[Carry, State]) -> Array:
        return (both[0].step < budget) & ~jnp.all(both[0].written.finished)

    return jax.lax.while_loop(goes_on, step, (carry, grammar_lib.start(seconds)))[0]


def _end(grammar: Grammar) -> int:
    return grammar.num_nodes + grammar_lib.END


class _CodeHead(NamedTuple):
    """Scores the audio codes and, in the last column, the stop token.

    Attributes:
      tokens: their ids [Q + 1].
      kernel: the head of them [D, Q + 1], cut out once; None scores the whole vocabulary.
    """

    tokens: Array
    kernel: Array | None

    @classmethod
    def of(cls, module: Any, params: Params, span: Span) -> "_CodeHead":
        tokens = jnp.append(jnp.arange(span.first, span.last), span.stop)
        return cls(tokens, module.apply({"params": params}, tokens, method="head_of"))

    def logits(self, module: Any, params: Params, carry: Carry, rules: Rules) -> Array:
        """Gives [B, Q + 1], after penalty and guidance."""
        if self.kernel is None:
            logits = head(module, params, carry.hidden)[:, self.tokens]
        else:
            hidden = carry.hidden.astype(self.kernel.dtype)
            logits = jnp.dot(hidden, self.kernel, preferred_element_type=jnp.float32)
        seen = None if carry.seen is None else carry.seen[:, self.tokens]
        return logits_lib.raw(logits, rules, seen)


def _code_loop(
    module: Any,
    params: Params,
    carry: Carry,
    keys: Key,
    span: Span,
    num_nodes: int,
    lengths: tuple[Array, Array],
    rules: Rules,
    budget: int,
) -> Carry:
    """Writes at least and at most `lengths` codes, and the stop token."""
    before, (least, most) = carry.written.lengths, lengths
    scorer = _CodeHead.of(module, params, span)

    def step(carry: Carry) -> Carry:
        count = carry.written.lengths - before
        token, log_prob, due = choose_code(
            scorer.logits(module, params, carry, rules),
            span,
            num_nodes,
            count >= most,
            count >= least,
            rules,
            token_keys(keys, carry),
        )
        carry = write(module, params, carry, token, log_prob, due)
        finished = carry.written.finished | (token == span.stop)
        return carry._replace(written=carry.written._replace(finished=finished))

    def goes_on(carry: Carry) -> Array:
        return (carry.step < budget) & ~jnp.all(carry.written.finished)

    return jax.lax.while_loop(goes_on, step, carry)


# Doors: compiled once for each size and kind ------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("module", "budget", "copies"))
def decode_text(
    module: Any,
    params: Params,
    prompts: Prompts,
    keys: Key,
    grammar: Grammar,
    programs: Array,
    seconds: Array,
    rules: Rules,
    *,
    budget: int,
    copies: int = 1,
) -> Written:
    """Writes text under a grammar.

    Args:
      module: a Qwen3 (`nn.lora.Adapted` or not).
      params: of it.
      prompts: [B / copies, T], twice as many with guidance.
      keys: [B], one an item.
      grammar: tables.
      programs: [B, P].
      seconds: [B] given durations, 0 for none.
      rules: of drawing.
      budget: most tokens to write (M).
      copies: items of each prompt, which is run once.
    """
    params = apart(params)
    carry = begin(module, params, prompts, rules, budget, copies)
    return _text_loop(
        module, params, carry, keys, grammar, programs, seconds, rules, budget
    ).written


@functools.partial(jax.jit, static_argnames=("module", "span", "budget", "copies", "num_nodes"))
def decode_codes(
    module: Any,
    params: Params,
    prompts: Prompts,
    keys: Key,
    span: Span,
    lengths: tuple[Array, Array],
    rules: Rules,
    *,
    budget: int,
    copies: int = 1,
    num_nodes: int = 0,
) -> Written:
    """Writes audio codes behind finished plans.

    Args:
      module, params, prompts, keys, rules, budget, copies: as in `decode_text`.
      span: of the codes.
      lengths: least and most codes [B] each; equal for an exact length.
      num_nodes: N of the grammar that `Written.due` is told in.
    """
    params = apart(params)
    carry = begin(module, params, prompts, rules, budget, copies)
    return _code_loop(module, params, carry, keys, span, num_nodes, lengths, rules, budget).written


@functools.partial(
    jax.jit, static_argnames=("module", "span", "budget", "copies", "codes_per_second")
)
def decode_song(
    module: Any,
    params: Params,
    prompts: Prompts,
    keys: Key,
    grammar: Grammar,
    programs: Array,
    seconds: Array,
    span: Span,
    rules: tuple[Rules, Rules],
    *,
    budget: tuple[int, int],
    copies: int = 1,
    codes_per_second: int = 5,
) -> Written:
    """Writes plan and codes in one go, as one turn: what reinforcement learning rolls out.

    Programs end behind the closing tag of the plan. Every item writes as many codes as the duration
    asks for that its plan names. An item whose plan is unfinished writes none. Guidance must be
    alike in both rules, on or off.

    Args:
      rules: of the plan and of the codes.
      budget: most tokens of the plan, and most codes.
      codes_per_second: 5.
      module, params, prompts, keys, grammar, programs, seconds, span, copies: as above.
    """
    text_rules, code_rules = rules
    size = sum(budget) + 1
    params = apart(params)
    carry = begin(module, params, prompts, text_rules, size, copies)
    carry = _text_loop(
        module, params, carry, keys, grammar, programs, seconds, text_rules, budget[0]
    )
    plan = carry.written
    length = jnp.minimum(plan.seconds * codes_per_second, budget[1])
    carry = carry._replace(written=plan._replace(finished=~plan.finished))
    carry = _code_loop(
        module,
        params,
        carry,
        keys,
        span,
        grammar.num_nodes,
        (length, length),
        code_rules,
        size,
    )
    return carry.written._replace(finished=plan.finished)
