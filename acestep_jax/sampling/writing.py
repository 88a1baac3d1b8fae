"""Tokens being written: prompts, cache, and what each item has so far.

A loop carries a `Carry`: `begin` makes it by running the prompts, `write` appends one token to
every item that has not finished and runs the model on it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.qwen3 import Cache
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


class Carry(NamedTuple):
    """What a step hands to the next: the model's side, and what has been written."""

    cache: Cache
    hidden: Array  # [R, D] behind each row's last real token
    step: Array
    written: Written
    seen: Array | None  # [B, V] tokens written, where there is a penalty


def begin(
    module: Any, params: Params, prompts: Prompts, rules: Rules, budget: int, copies: int
) -> Carry:
    """Runs the prompts once and copies their cache for the items that share one."""
    tokens = jnp.asarray(prompts.tokens)
    size = tokens.shape[1] + budget
    hidden, cache = module.apply(
        {"params": params}, tokens, jnp.asarray(prompts.mask), size, method="prefill"
    )
    hidden = hidden[:, -1]
    if copies > 1:
        hidden = jnp.repeat(hidden, copies, axis=0)
        cache = cache.repeat(copies)
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
        shape = jax.eval_shape(lambda: head(module, params, hidden))
        seen = jnp.zeros((batch, shape.shape[1]), bool)
    return Carry(cache, hidden, jnp.zeros((), jnp.int32), written, seen)


def write(
    module: Any, params: Params, carry: Carry, token: Array, log_prob: Array, due: Array
) -> Carry:
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
    return Carry(cache, hidden, carry.step + 1, written, seen)


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


def token_keys(keys: Key, carry: Carry) -> Key:
    """Gives the key of each item's next token."""
    return jax.vmap(jax.random.fold_in)(keys, carry.written.lengths)


def head(module: Any, params: Params, hidden: Array) -> Array:
    """Scores the next token of every row of the carry: [R, V]."""
    return module.apply({"params": params}, hidden[:, None], method="logits")[:, 0]
