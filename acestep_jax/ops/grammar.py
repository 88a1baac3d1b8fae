"""A grammar as tables: which tokens may come next, for every item of a batch by itself.

An item follows its *program*, a row of entries that is read from left to right. An entry is

    -1 - token      a fixed token: names, tags, values that the user gave
    node < N        the root of a prefix tree: one of its values is written
    N + state       free text of a kind, below

Trees are shared by all items and stored as rows of (token, next node); a next node of -1 leaves the
tree and goes on in the program. Skipping a field is leaving its entries out. Free text:

    CAPTION   many lines; all but the first begin with a space or tab. It ends where the best token
              after a line break begins otherwise: the machine then writes what follows itself.
    LINE      up to the first line break
    FREE      up to a stop token, without control tokens
    ANY       up to a stop token, no token is ruled out

Nothing here knows a vocabulary: `tasks.planning.grammar` builds tables and programs from one.
"""

from typing import NamedTuple

import jax.numpy as jnp

from acestep_jax.typing import Array

CAPTION, INDENT, NEWLINE, LINE, CLOSE, FREE, ANY, END, CODES, CODES_OR_STOP = range(10)
"""States above the N nodes of the trees. A caption is in INDENT right behind a line break and in
NEWLINE at its limit, a line is in CLOSE at its limit; the last two belong to the audio codes."""
NUM_MASKS = 7
"""States that have a mask over the vocabulary: CAPTION to ANY."""
LEAVE = -1


class Grammar(NamedTuple):
    """Tables shared by all items.

    Attributes:
      tokens: [N, K] what may follow at each node, padded with -1.
      next: [N, K] the node that each of them leads to, or LEAVE.
      greedy: [N] nodes at which the best token is taken, never drawn.
      seconds: [N] the duration that a value stands for when it is left there, else 0.
      masks: [NUM_MASKS, V] tokens allowed in each state of free text.
      breaks: [V] tokens that contain a line break.
      indents: [V] tokens that begin with a space or tab.
      stops: [2] tokens that end free text.
      limits: [2] longest caption and longest line, in tokens.
    """

    tokens: Array
    next: Array
    greedy: Array
    seconds: Array
    masks: Array
    breaks: Array
    indents: Array
    stops: Array
    limits: Array

    @property
    def num_nodes(self) -> int:
        """N, where the states of free text begin."""
        return self.tokens.shape[0]


class State(NamedTuple):
    """Where each item is; all [B].

    Attributes:
      at: entry of the program.
      node: inside a tree, else -1.
      count: tokens of the present text.
      fresh: whether that text stands right behind a line break.
      seconds: the duration written or given so far, 0 for none.
    """

    at: Array
    node: Array
    count: Array
    fresh: Array
    seconds: Array


def unconstrained(vocab_size: int, stops: tuple[int, int] = (-1, -1)) -> Grammar:
    """Makes tables that rule nothing out, for the program [1 + ANY, 1 + END].

    Args:
      vocab_size: V.
      stops: tokens that end an item; -1 for none, so that all write to the end of their budget.
    """
    return Grammar(
        tokens=jnp.full((1, 1), -1, jnp.int32),
        next=jnp.full((1, 1), LEAVE, jnp.int32),
        greedy=jnp.zeros(1, bool),
        seconds=jnp.zeros(1, jnp.int32),
        masks=jnp.ones((NUM_MASKS, vocab_size), bool),
        breaks=jnp.zeros(vocab_size, bool),
        indents=jnp.zeros(vocab_size, bool),
        stops=jnp.asarray(stops, jnp.int32),
        limits=jnp.ones(2, jnp.int32),
    )


def start(seconds: Array) -> State:
    """Makes the state at the beginning of the programs; `seconds` [B] are given durations or 0."""
    zeros = jnp.zeros(seconds.shape, jnp.int32)
    return State(zeros, zeros - 1, zeros, zeros > 0, seconds.astype(jnp.int32))


def _entry(programs: Array, at: Array) -> Array:
    last = jnp.minimum(at, programs.shape[1] - 1)
    return jnp.take_along_axis(programs, last[:, None], axis=1)[:, 0]


def look(grammar: Grammar, programs: Array, state: State) -> tuple[Array, State]:
    """Says what is due, before any logits are seen.

    Args:
      grammar: the tables.
      programs: [B, P], each ending in N + END.
      state: of the items.

    Returns:
      Entries [B]: a fixed token, a node, or a state; and the state, moved on where a caption has
      reached its limit and its line is closed.
    """
    n = grammar.num_nodes
    due = jnp.where(state.node >= 0, state.node, _entry(programs, state.at))
    caption, full = due == n + CAPTION, state.count >= grammar.limits[0]
    due = jnp.where(caption & state.fresh, n + INDENT, due)
    due = jnp.where(caption & full, n + NEWLINE, due)
    due = jnp.where((due == n + LINE) & (state.count >= grammar.limits[1]), n + CLOSE, due)
    over = caption & full & state.fresh
    state = _leave(state, over)
    return jnp.where(over, _entry(programs, state.at), due), state


def _leave(state: State, leaving: Array) -> State:
    """Goes to the next entry of the program, where `leaving` [B]."""
    return state._replace(
        at=state.at + leaving,
        node=jnp.where(leaving, -1, state.node),
        count=jnp.where(leaving, 0, state.count),
        fresh=state.fresh & ~leaving,
    )


def settle(
    grammar: Grammar, programs: Array, state: State, due: Array, best: Array
) -> tuple[Array, State]:
    """Ends a caption whose next line would not be indented.

    Args:
      grammar, programs, state: as in `look`.
      due: its answer.
      best: [B] the most likely token of the whole vocabulary, before any mask.
    """
    over = (due == grammar.num_nodes + INDENT) & ~grammar.indents[best]
    state = _leave(state, over)
    return jnp.where(over, _entry(programs, state.at), due), state


def is_text(grammar: Grammar, due: Array) -> Array:
    """Tells which entries are free text, which needs scores of the whole vocabulary."""
    return (due >= grammar.num_nodes) & (due < grammar.num_nodes + NUM_MASKS)


def is_tree(grammar: Grammar, due: Array) -> Array:
    """Tells which entries are nodes of a tree."""
    return (due >= 0) & (due < grammar.num_nodes)


def candidates(grammar: Grammar, due: Array) -> Array:
    """Lists the tokens [B, K] of the nodes, -1 where there are fewer; elsewhere any row."""
    return grammar.tokens[jnp.clip(due, 0, grammar.num_nodes - 1)]


def text_mask(grammar: Grammar, due: Array) -> Array:
    """Gives the tokens [B, V] that free text allows; elsewhere any row."""
    return grammar.masks[jnp.clip(due - grammar.num_nodes, 0, NUM_MASKS - 1)]


def advance(grammar: Grammar, state: State, due: Array, token: Array) -> State:
    """Moves every item on by the token that it wrote.

    Args:
      grammar: the tables.
      state: of `settle`.
      due: of `settle`; at END nothing moves.
      token: [B].
    """
    n = grammar.num_nodes
    node = jnp.clip(due, 0, n - 1)
    column = jnp.argmax(grammar.tokens[node] == token[:, None], axis=1)[:, None]
    follows = jnp.take_along_axis(grammar.next[node], column, axis=1)[:, 0]
    in_tree, in_text = is_tree(grammar, due), is_text(grammar, due)
    value_done = in_tree & (follows == LEAVE)
    breaks = grammar.breaks[token]
    stopped = (token[:, None] == grammar.stops[None]).any(axis=1)
    line = (due == n + LINE) | (due == n + CLOSE)
    text_done = (line & breaks) | (((due == n + FREE) | (due == n + ANY)) & stopped)
    written = jnp.where(value_done, grammar.seconds[node], 0)
    state = state._replace(
        node=jnp.where(in_tree, follows, -1),
        count=state.count + in_text,
        fresh=jnp.where(in_text, breaks, state.fresh),
        seconds=jnp.where(written > 0, written, state.seconds),
    )
    return _leave(state, (due < 0) | value_done | text_done)


def allowed(grammar: Grammar, due: Array, codes: tuple[int, int], stop: int) -> Array:
    """Gives the tokens [..., V] that were allowed where `due` [...] stood, for scoring afterwards.

    Args:
      grammar: the tables.
      due: entries as decoding returns them.
      codes: first audio code and the one behind the last.
      stop: the token that ends the codes.
    """
    n, size = grammar.num_nodes, grammar.masks.shape[1]
    flat, ids = due.reshape(-1), jnp.arange(size)[None]
    rows = candidates(grammar, flat)
    rows = jnp.where(is_tree(grammar, flat)[:, None], rows, jnp.maximum(-1 - flat, -1)[:, None])
    places = jnp.where(rows < 0, size, rows)
    listed = jnp.zeros((len(flat), size + 1), bool)
    listed = listed.at[jnp.arange(len(flat))[:, None], places].set(True)
    is_code = (ids >= codes[0]) & (ids < codes[1])
    sung = is_code | ((ids == stop) & (flat == n + CODES_OR_STOP)[:, None])
    mask = jnp.where(is_text(grammar, flat)[:, None], text_mask(grammar, flat), listed[:, :size])
    mask = jnp.where((flat >= n + CODES)[:, None], sung, mask)
    return mask.reshape(*due.shape, size)
