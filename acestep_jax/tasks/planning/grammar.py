"""The grammar of blueprints for one vocabulary, and the program of one request.

Every value that is not free text is one of a list: numbers in their range, 70 keys, 51 languages,
four metres. Each list becomes a tree over token sequences, of the tokens that the tokenizer gives
to `name: value`, so that what is written is what was trained on.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.grammar import Grammar
from acestep_jax.tasks import prompt
from acestep_jax.tasks import request as request_lib
from acestep_jax.tasks.planning.blueprint import FIELDS
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.tasks.request import BadRequest

CAPTION_TOKENS = 512
"""The release closes a caption there."""
GENRE_TOKENS = 32
"""Ours: the release's own limit is a list of genres that is not public."""
BACKTICK = 63
"""Qwen3's token; in captions of ours every token with a backtick is ruled out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rulebook:
    """What the grammar may write, and which habits of the release it keeps.

    Attributes:
      bpm: lowest and highest tempo.
      seconds: shortest and longest duration.
      caption_tokens: longest caption.
      genre_tokens: longest genre line.
      greedy_names: spell field names by the longest token at each step, as the release does. It
        gives `bp m :`, which its tokenizer never writes and training never showed.
      released_masks: rule out in free text only what the release does: a backtick and the valid
        codes in captions, the codes in lyrics. Control tokens can then end a plan in the middle.
    """

    bpm: tuple[int, int] = (request_lib.MIN_BPM, request_lib.MAX_BPM)
    seconds: tuple[int, int] = (int(request_lib.MIN_SECONDS), int(request_lib.MAX_SECONDS))
    caption_tokens: int = CAPTION_TOKENS
    genre_tokens: int = GENRE_TOKENS
    greedy_names: bool = False
    released_masks: bool = False

    def values(self) -> dict[str, list[str]]:
        """Lists what each field but caption and genres may hold."""
        return {
            "bpm": [str(n) for n in range(self.bpm[0], self.bpm[1] + 1)],
            "duration": [str(n) for n in range(self.seconds[0], self.seconds[1] + 1)],
            "keyscale": list(request_lib.KEYS),
            "language": list(prompt.LANGUAGES),
            "timesignature": list(request_lib.TIME_SIGNATURES),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Book:
    """The tables of a vocabulary, and where each field's tree begins.

    Attributes:
      vocabulary: that the tables speak of.
      rules: that they keep.
      tables: for `ops.grammar`, numpy arrays.
      roots: {field: node}.
      depths: {field: tokens of its longest value, the line break included}.
    """

    vocabulary: Vocabulary
    rules: Rulebook
    tables: Grammar
    roots: Mapping[str, int]
    depths: Mapping[str, int]

    @property
    def plan_tokens(self) -> int:
        """Counts the tokens of the longest blueprint that can be written."""
        texts = self.rules.caption_tokens + self.rules.genre_tokens + 2
        return len(self.program(skip=())) + sum(self.depths.values()) + texts

    def state(self, kind: int) -> int:
        """Numbers a state of free text, or END, as an entry of a program."""
        return self.tables.num_nodes + kind

    def fixed(self, text: str) -> list[int]:
        """Writes a fixed string as entries of a program."""
        return [-1 - token for token in self.vocabulary.encode(text)]

    @functools.cached_property
    def _names(self) -> dict[str, list[int]]:
        spell = longest_first if self.rules.greedy_names else Vocabulary.encode
        return {
            name: [-1 - token for token in spell(self.vocabulary, f"{name}:")] for name in FIELDS
        }

    def program(
        self,
        *,
        given: Mapping[str, Any] | None = None,
        skip: Sequence[str] = ("genres",),
        ending: str = "stop",
    ) -> list[int]:
        """Writes the program of a blueprint.

        Args:
          given: {field: value} that the user has chosen; they are written as they are.
          skip: fields that are left out, given or not.
          ending: "stop" ends the turn in place of the closing tag, as the release's first phase
            does; "text" goes on with free text; "codes" stands ready for audio codes.

        Raises:
          BadRequest: for given values that the tables do not allow.
        """
        given = dict(given or {})
        check_given(given, self.rules)
        entries = self.fixed("<think>") + self.fixed("\n")
        for name in FIELDS:
            if name not in skip:
                entries += self._names[name] + self._value(name, given.get(name))
        if ending == "stop":
            return [*entries, -1 - self.vocabulary.stop, self.state(grammar_lib.END)]
        entries += self.fixed("</think>")
        if ending == "text":
            entries.append(self.state(grammar_lib.FREE))
        elif ending == "codes":
            entries += self.fixed("\n\n")
        else:
            raise ValueError(f"unknown ending {ending!r}; use stop, text or codes.")
        return [*entries, self.state(grammar_lib.END)]

    def free(self) -> list[int]:
        """Writes the program that rules nothing out: decoding without a grammar."""
        return [self.state(grammar_lib.ANY), self.state(grammar_lib.END)]

    def _value(self, name: str, given: Any) -> list[int]:
        if given is not None:
            return [-1 - token for token in value_tokens(self.vocabulary, name, str(given))] + [
                -1 - self.vocabulary.newline
            ]
        if name == "caption":
            return [self.state(grammar_lib.CAPTION)]
        return [self.state(grammar_lib.LINE) if name == "genres" else self.roots[name]]


def check_given(given: Mapping[str, Any], rules: Rulebook) -> None:
    """Refuses values that no blueprint holds.

    Raises:
      BadRequest: listing all of them.
    """
    values, problems = rules.values(), []
    for name, value in given.items():
        if name not in values:
            problems.append(f"{name} cannot be given; given may be {', '.join(values)}")
        elif str(value) not in values[name]:
            some = values[name]
            known = ", ".join(some) if len(some) < 60 else f"{some[0]} ... {some[-1]}"
            problems.append(f"{name} is {value!r}; use one of {known}")
    if problems:
        raise BadRequest("; ".join(problems) + ".")


def longest_first(vocabulary: Vocabulary, text: str) -> list[int]:
    """Splits text as the release's decoder does: the longest single token at every step."""
    ids = []
    while text:
        for end in range(len(text), 0, -1):
            tokens = vocabulary.encode(text[:end])
            if len(tokens) == 1:
                ids += tokens
                text = text[end:]
                break
        else:
            raise ValueError(f"{text!r} begins with no single token of this tokenizer.")
    return ids


def value_tokens(vocabulary: Vocabulary, name: str, value: str) -> list[int]:
    """Tokenises a value as it stands behind its field's name.

    Raises:
      ValueError: if this tokenizer joins the name's colon and the value.
    """
    head, whole = vocabulary.encode(f"{name}:"), vocabulary.encode(f"{name}: {value}")
    if whole[: len(head)] != head:
        raise ValueError(f"this tokenizer joins {name!r} and its value; trees cannot be built.")
    return whole[len(head) :]


# Tables -------------------------------------------------------------------------------------------


def build(vocabulary: Vocabulary, rules: Rulebook | None = None) -> Book:
    """Builds the tables of a vocabulary."""
    rules = rules or Rulebook()
    nodes: list[dict[int, int]] = []  # of each node {token: next node or LEAVE}
    seconds: dict[int, int] = {}
    roots, depths = {}, {}
    for name, values in rules.values().items():
        roots[name], depths[name] = len(nodes), 0
        nodes.append({})
        for value in values:
            path = value_tokens(vocabulary, name, value)
            depths[name] = max(depths[name], len(path) + 1)
            node = _insert(nodes, roots[name], path)
            nodes[node][vocabulary.newline] = grammar_lib.LEAVE
            if name == "duration":
                seconds[node] = int(value)
    width = max(map(len, nodes))
    tokens = np.full((len(nodes), width), -1, np.int32)
    follows = np.full((len(nodes), width), grammar_lib.LEAVE, np.int32)
    for node, branches in enumerate(nodes):
        for column, token in enumerate(sorted(branches)):
            tokens[node, column], follows[node, column] = token, branches[token]
    greedy = np.arange(len(nodes)) == roots["language"]  # the release takes the best language
    length = np.array([seconds.get(node, 0) for node in range(len(nodes))], np.int32)
    tables = Grammar(tokens, follows, greedy, length, **_text_tables(vocabulary, rules))
    return Book(vocabulary, rules, tables, roots, depths)


def _insert(nodes: list[dict[int, int]], node: int, tokens: Sequence[int]) -> int:
    """Adds a path of tokens below a node; gives its last node."""
    for token in tokens:
        if token not in nodes[node]:
            nodes[node][token] = len(nodes)
            nodes.append({})
        node = nodes[node][token]
    return node


def _text_tables(vocabulary: Vocabulary, rules: Rulebook) -> dict[str, np.ndarray]:
    spelled = vocabulary.spellings
    breaks = np.array([b"\n" in text for text in spelled])
    indents = np.array([text[:1] in (b" ", b"\t") for text in spelled])
    ids = np.arange(vocabulary.size)
    is_stop = (ids == vocabulary.stop) | (ids == vocabulary.pad)
    is_code = (ids >= vocabulary.first_code) & (ids < vocabulary.first_code + vocabulary.num_codes)
    if rules.released_masks:
        caption, line, free = (ids != BACKTICK) & ~is_code, (ids != BACKTICK) & ~is_code, ~is_code
    else:
        plain = np.array([len(text) > 0 for text in spelled])  # no control token, no spare row
        # a line break within a token would let what stands behind it begin a field
        split = np.array([b"\n" in text.rstrip(b"\n") for text in spelled])
        ticks = np.array([b"`" in text for text in spelled])
        caption = plain & ~ticks & ~split
        line, free = caption, plain | is_stop
    newline = ids == vocabulary.newline
    masks = np.zeros((grammar_lib.NUM_MASKS, vocabulary.size), bool)
    masks[grammar_lib.CAPTION] = caption
    masks[grammar_lib.INDENT] = caption if rules.released_masks else caption & indents
    masks[grammar_lib.NEWLINE] = masks[grammar_lib.CLOSE] = newline
    masks[grammar_lib.LINE], masks[grammar_lib.FREE] = line, free
    masks[grammar_lib.ANY] = True
    return {
        "masks": masks,
        "breaks": breaks,
        "indents": indents,
        "stops": np.array([vocabulary.stop, vocabulary.pad], np.int32),
        "limits": np.array([rules.caption_tokens, rules.genre_tokens], np.int32),
    }
