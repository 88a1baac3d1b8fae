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
import numpy as np

from acestep_jax.nn.qwen3 import Cache
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops import logits as logits_lib
from acestep_jax.ops.grammar import Grammar, State
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import buckets
from acestep_jax.typing import Array, Key, Params


class Prompts(NamedTuple):
    """Prompts padded on the left: tokens int32 [B, T] and which of them are real [B, T]."""

    tokens: Array | np.ndarray
    mask: Array | np.ndarray


class Span(NamedTuple):
    """Where audio codes stand in the vocabulary, and what ends them; static while compiling.

    Attributes:
      first: token of code 0.
      last: token behind the last valid code.
      stop: the token that ends a song.
    """

    first: int
    last: int
    stop: int


class Written(NamedTuple):
    """What was written; [B, M] with M the budget, padded behind each item's end.

    Attributes:
      tokens: int32, the final stop token included.
      log_probs: of each token under the distribution it was drawn from: after guidance, penalty,
        mask, temperature and filters, renormalised. Fixed tokens have 0.
      due: what the grammar asked for (see `ops.grammar`), fixed tokens as -1 - token; what
        `ops.grammar.allowed` needs to score the same tokens again.
      lengths: tokens written [B].
      finished: [B], False where the budget ran out first.
      seconds: [B] the duration written or given, 0 for none.
    """

    tokens: Array
    log_probs: Array
    due: Array
    lengths: Array
    finished: Array
    seconds: Array


def pad_prompts(prompts: list[list[int]], padding: int, limit: int) -> Prompts:
    """Pads prompts on the left to a common length of a few (see `buckets.token_bucket`).

    Raises:
      ValueError: if one is longer than `limit`.
    """
    size = buckets.token_bucket(max(map(len, prompts)), limit)
    tokens = np.full((len(prompts), size), padding, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
        tokens[row, size - len(prompt) :] = prompt
        mask[row, size - len(prompt) :] = True
    return Prompts(tokens, mask)


# The loop's parts ---------------------------------------------------------------------------------


class _Carry(NamedTuple):
    """What a step hands to the next: the model's side, and what has been written."""

    cache: Cache
    hidden: Array  # [R, D] behind each row's last real token
    step: Array
    written: Written
    seen: Array | None  # [B, V] tokens written, where there is a penalty


def _begin(
    module: Any, params: Params, prompts: Prompts, rules: Rules, budget: int, copies: int
) -> _Carry:
    """Runs the prompts once and copies their cache for the items that share one."""
    tokens = jnp.asarray(prompts.tokens)
    size = tokens.shape[1] + budget
    hidden, cache = module.apply(
        {"params": params}, tokens, jnp.asarray(prompts.mask), size, method="prefill"
    )
    hidden = hidden[:, -1]
    if copies > 1:
        hidden = jnp.repeat(hidden, copies, axis=0)
        cache = cache.replace(
            k=jnp.repeat(cache.k, copies, axis=1),
            v=jnp.repeat(cache.v, copies, axis=1),
            mask=jnp.repeat(cache.mask, copies, axis=0),
        )
    batch = hidden.shape[0] // (1 if rules.guidance is None else 2)
    written = Written(
        tokens=jnp.zeros((batch, budget), jnp.int32),
        log_probs=jnp.zeros((batch, budget), jnp.float32),
        due=jnp.zeros((batch, budget), jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        finished=jnp.zeros(batch, bool),
        seconds=jnp.zeros(batch, jnp.int32),
    )
    seen = None
    if rules.penalty is not None:
        shape = jax.eval_shape(lambda: _head(module, params, hidden))
        seen = jnp.zeros((batch, shape.shape[1]), bool)
    return _Carry(cache, hidden, jnp.zeros((), jnp.int32), written, seen)


def _write(
    module: Any, params: Params, carry: _Carry, token: Array, log_prob: Array, due: Array
) -> _Carry:
    """Records the tokens of the items that have not finished, and runs the model on them."""
    active = ~carry.written.finished
    written = _record(carry.written, token, log_prob, due, active)
    rows = carry.hidden.shape[0] // active.shape[0]
    hidden, cache = module.apply(
        {"params": params},
        jnp.tile(token[:, None], (rows, 1)),
        mask=jnp.tile(active[:, None], (rows, 1)),
        cache=carry.cache,
    )
    hidden = jnp.where(jnp.tile(active[:, None], (rows, 1)), hidden[:, 0], carry.hidden)
    seen = carry.seen
    if seen is not None:
        seen = seen.at[jnp.arange(len(token)), token].max(active)
    return _Carry(cache, hidden, carry.step + 1, written, seen)


def _record(written: Written, token: Array, log_prob: Array, due: Array, active: Array) -> Written:
    """Appends to each active item; the others' index lies outside and is dropped."""
    items = jnp.arange(len(token))
    place = jnp.where(active, written.lengths, written.tokens.shape[1])

    def put(buffer: Array, values: Array) -> Array:
        return buffer.at[items, place].set(values.astype(buffer.dtype), mode="drop")

    return written._replace(
        tokens=put(written.tokens, token),
        log_probs=put(written.log_probs, log_prob),
        due=put(written.due, due),
        lengths=written.lengths + active,
    )


def _token_keys(keys: Key, carry: _Carry) -> Key:
    """Gives the key of each item's next token."""
    return jax.vmap(jax.random.fold_in)(keys, carry.written.lengths)


def _head(module: Any, params: Params, hidden: Array, rows: tuple[int, int] | None = None) -> Array:
    logits = module.apply({"params": params}, hidden[:, None], rows, method="logits")
    return logits[:, 0]


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
    return Scores(few, jnp.argmax(whole, axis=1).astype(jnp.int32), token, log_prob)


def _score_few(
    module: Any, params: Params, grammar: Grammar, rules: Rules, due: Array, carry: _Carry
) -> Scores:
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


# Loops: compiled once for each size and kind ------------------------------------------------------


def _text_loop(
    module: Any,
    params: Params,
    carry: _Carry,
    keys: Key,
    grammar: Grammar,
    programs: Array,
    seconds: Array,
    rules: Rules,
    budget: int,
) -> _Carry:
    def step(both: tuple[_Carry, State]) -> tuple[_Carry, State]:
        carry, state = both
        due, state = grammar_lib.look(grammar, programs, state)
        own = _token_keys(keys, carry)
        active = ~carry.written.finished
        scores = jax.lax.cond(
            jnp.any(grammar_lib.is_text(grammar, due) & active),
            lambda: score_text(
                grammar, rules, due, own, _head(module, params, carry.hidden), carry.seen
            ),
            lambda: _score_few(module, params, grammar, rules, due, carry),
        )
        chosen = choose_text(grammar, programs, state, due, scores, rules, own)
        carry = _write(module, params, carry, chosen.token, chosen.log_prob, chosen.told)
        due = jnp.where(active, chosen.due, _end(grammar))
        state = grammar_lib.advance(grammar, chosen.state, due, chosen.token)
        ahead, _ = grammar_lib.look(grammar, programs, state)
        finished = carry.written.finished | (ahead == _end(grammar))
        written = carry.written._replace(finished=finished, seconds=state.seconds)
        return carry._replace(written=written), state

    def goes_on(both: tuple[_Carry, State]) -> Array:
        return (both[0].step < budget) & ~jnp.all(both[0].written.finished)

    return jax.lax.while_loop(goes_on, step, (carry, grammar_lib.start(seconds)))[0]


def _end(grammar: Grammar) -> int:
    return grammar.num_nodes + grammar_lib.END


def _code_logits(module: Any, params: Params, carry: _Carry, span: Span, rules: Rules) -> Array:
    """Scores the audio codes and, in the last column, the stop token: [B, Q + 1]."""
    logits = jnp.concatenate(
        [
            _head(module, params, carry.hidden, (span.first, span.last)),
            _head(module, params, carry.hidden, (span.stop, span.stop + 1)),
        ],
        axis=1,
    )
    seen = carry.seen
    if seen is not None:
        seen = jnp.concatenate(
            [seen[:, span.first : span.last], seen[:, span.stop : span.stop + 1]], axis=1
        )
    return logits_lib.raw(logits, rules, seen)


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


def _code_loop(
    module: Any,
    params: Params,
    carry: _Carry,
    keys: Key,
    span: Span,
    num_nodes: int,
    lengths: tuple[Array, Array],
    rules: Rules,
    budget: int,
) -> _Carry:
    """Writes at least and at most `lengths` codes, and the stop token."""
    before, (least, most) = carry.written.lengths, lengths

    def step(carry: _Carry) -> _Carry:
        count = carry.written.lengths - before
        token, log_prob, due = choose_code(
            _code_logits(module, params, carry, span, rules),
            span,
            num_nodes,
            count >= most,
            count >= least,
            rules,
            _token_keys(keys, carry),
        )
        carry = _write(module, params, carry, token, log_prob, due)
        finished = carry.written.finished | (token == span.stop)
        return carry._replace(written=carry.written._replace(finished=finished))

    def goes_on(carry: _Carry) -> Array:
        return (carry.step < budget) & ~jnp.all(carry.written.finished)

    return jax.lax.while_loop(goes_on, step, carry)


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
    carry = _begin(module, params, prompts, rules, budget, copies)
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
    carry = _begin(module, params, prompts, rules, budget, copies)
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
    carry = _begin(module, params, prompts, text_rules, size, copies)
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
