"""The planner's vocabulary: which tokens are text, control and audio codes; text made harmless.

What users write never becomes a control token or an audio code. Where their text spells one out, it
is cut within the spelling and the pieces are tokenised apart: the text stays as it is, and the
model reads its letters. A template's own tokens come from the template alone.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np
import tokenizers

from acestep_jax.tasks.request import NUM_CODES, BadRequest

CODE = re.compile(r"<\|audio_code_(\d+)\|>")
_BYTES_OF_GPT2 = (*range(33, 127), *range(161, 173), *range(174, 256))
"""Bytes that byte-level BPE writes as themselves; the others follow from 256 on, in order."""


class User(str):
    """Text that a user wrote, within a prompt; the rest of a prompt is plain `str`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer and what the planner must know of its tokens.

    Attributes:
      tokenizer: with ChatML's tokens, the think tags and audio codes among its added ones.
      size: rows of the model's table; there may be more than the tokenizer has tokens.
      num_codes: valid codes; rows behind them exist in the release and are never written.
    """

    tokenizer: tokenizers.Tokenizer
    size: int
    num_codes: int

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer, size: int) -> "Vocabulary":
        """Reads what the tokenizer holds.

        Args:
          tokenizer: a planner's.
          size: of the model's vocabulary.

        Raises:
          ValueError: if a token that planning needs is missing, or its id lies beyond the model's
            table; it lists them all.
        """
        needed = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>")
        missing = [
            name
            for name in (*needed, "<|audio_code_0|>")
            if (found := tokenizer.token_to_id(name)) is None or found >= size
        ]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)} within {size} rows; a planner's has "
                "ChatML's tokens, the think tags and one token for each audio code."
            )
        first, count = tokenizer.token_to_id("<|audio_code_0|>"), 0
        while tokenizer.token_to_id(f"<|audio_code_{count}|>") == first + count < size:
            count += 1
        return cls(tokenizer, size, min(count, NUM_CODES))

    def id(self, token: str) -> int:
        """Finds the id of a token that exists.

        Raises:
          KeyError: if there is none.
        """
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(f"the tokenizer has no token {token!r}.")
        return found

    @functools.cached_property
    def stop(self) -> int:
        """The token that ends a turn."""
        return self.id("<|im_end|>")

    @functools.cached_property
    def pad(self) -> int:
        """Padding, which also ends what is written."""
        return self.id("<|endoftext|>")

    @functools.cached_property
    def first_code(self) -> int:
        """The token of code 0."""
        return self.id("<|audio_code_0|>")

    @functools.cached_property
    def newline(self) -> int:
        """The token of a line break alone."""
        (found,) = self.encode("\n")
        return found

    @functools.cached_property
    def control(self) -> frozenset[int]:
        """All added tokens, audio codes included: what no user may write."""
        return frozenset(self.tokenizer.get_added_tokens_decoder())

    @functools.cached_property
    def _markup(self) -> re.Pattern[str]:
        names = {t.content for t in self.tokenizer.get_added_tokens_decoder().values()}
        names = {name for name in names if not CODE.fullmatch(name)}
        longest_first = sorted(names, key=len, reverse=True)
        return re.compile("|".join([CODE.pattern, *map(re.escape, longest_first)]))

    # Text to tokens and back ---------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokenises text of ours, in which markup counts."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, parts: Sequence[str]) -> list[int]:
        """Tokenises a prompt of which some parts are a user's (`User`).

        Harmless text is tokenised in one piece, as the model was trained.

        Raises:
          BadRequest: for text that is none: half a surrogate pair.
        """
        if any("\ud800" <= letter <= "\udfff" for part in parts for letter in part):
            raise BadRequest("the text holds half a surrogate pair, which is no character.")
        pieces = [""]
        for part in parts:
            own = self._harmless(part) if isinstance(part, User) else [str(part)]
            pieces[-1] += own[0]
            pieces += own[1:]
        ids = [token for piece in pieces for token in self.encode(piece)]
        ours = [t for p in parts if not isinstance(p, User) for t in self.encode(str(p))]
        expected = sum(token in self.control for token in ours)
        if sum(token in self.control for token in ids) != expected:
            raise BadRequest("the text forms control tokens together with the prompt around it.")
        return ids

    def _harmless(self, text: str) -> list[str]:
        """Cuts text behind the first letter of every control token that it spells out."""
        pieces, start = [], 0
        for found in self._markup.finditer(text):
            pieces.append(text[start : found.start() + 1])
            start = found.start() + 1
        return [*pieces, text[start:]]

    def decode(self, ids: Sequence[int]) -> str:
        """Gives the text of tokens, control tokens and codes spelled out."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def codes(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Gives the audio codes among tokens."""
        found = np.asarray(ids, np.int64) - self.first_code
        return tuple(int(code) for code in found[(found >= 0) & (found < self.num_codes)])

    def code_tokens(self, codes: Sequence[int]) -> list[int]:
        """Gives the tokens of audio codes.

        Raises:
          BadRequest: for codes that do not exist.
        """
        wrong = sorted({int(code) for code in codes if not 0 <= code < self.num_codes})
        if wrong:
            raise BadRequest(f"codes {wrong[:5]} do not exist; there are {self.num_codes}.")
        return [self.first_code + int(code) for code in codes]

    # What tokens look like -----------------------------------------------------------------------

    @functools.cached_property
    def spellings(self) -> list[bytes]:
        """The bytes of every row; empty for added tokens and rows without a token."""
        table = {chr(b): b for b in _BYTES_OF_GPT2}
        rest = sorted(set(range(256)) - set(_BYTES_OF_GPT2))
        table |= {chr(256 + n): b for n, b in enumerate(rest)}
        spelled = [b""] * self.size
        for name, row in self.tokenizer.get_vocab(with_added_tokens=False).items():
            if row < self.size and row not in self.control:
                spelled[row] = bytes(table[letter] for letter in name)
        return spelled
