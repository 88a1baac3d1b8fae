r"""The lyrics within a prompt's tokens: where they stand, what is sung, which text each token adds.

    # Languages\n en \n\n # Lyric\n  |  [verse]\n Hello dark ness ...  |  <|endoftext|>
    header, `first` tokens         |  `count` tokens                  |  end

The DiT's condition begins with the lyric prompt, so that place i there is token i here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from acestep_jax.tasks import prompt
from acestep_jax.typing import Array

Decode = Callable[[Sequence[int]], str]
"""Tokens to text, special ones kept, broken characters as U+FFFD."""

_TITLE = "# Lyric\n"


class LyricSpans(NamedTuple):
    """Where the lyrics of a batch stand, for the device.

    Attributes:
      first: int32 [B], tokens before the lyrics.
      count: int32 [B], tokens of the lyrics.
      sung: bool [B, N], true on tokens outside [brackets]; false behind the last.
    """

    first: Array
    count: Array
    sung: Array


@dataclasses.dataclass(frozen=True, eq=False)
class LyricTokens:
    """The lyrics of one song.

    Attributes:
      first: tokens before them in the prompt.
      ids: their tokens.
      sung: bool, one a token.
      decode: of the tokenizer.
    """

    first: int
    ids: tuple[int, ...]
    sung: np.ndarray
    decode: Decode

    @property
    def has_words(self) -> bool:
        """Whether anything is sung that is more than a line break."""
        sung = [token for token, own in zip(self.ids, self.sung, strict=True) if own]
        return bool(self.decode(sung).strip())


def decoder(tokenizer: tokenizers.Tokenizer) -> Decode:
    """Gives the tokenizer's way from tokens to text."""
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)


def find_lyrics(
    tokenizer: tokenizers.Tokenizer, ids: Sequence[int], language: str | None = None
) -> LyricTokens:
    """Finds the lyrics in the tokens of a lyric prompt.

    Args:
      tokenizer: of the text encoder.
      ids: the prompt's tokens; padding may follow.
      language: that the prompt names; None reads it from the tokens. Another one than the prompt's
        finds another place, as in the release.

    Raises:
      ValueError: if the tokens are no lyric prompt, or end before the lyrics begin.
    """
    decode = decoder(tokenizer)
    end_token = tokenizer.token_to_id("<|endoftext|>")
    ids = [int(token) for token in ids]
    end = ids.index(end_token) if end_token in ids else len(ids)
    if language is None:
        language = _language(decode(ids[:end]))
    header = prompt.lyric_prompt("", language).removesuffix("<|endoftext|>")
    first = len(tokenizer.encode(header, add_special_tokens=False).ids)
    if first > end:
        raise ValueError(f"the lyrics begin at token {first}, but the prompt has {end} tokens.")
    own = tuple(ids[first:end])
    return LyricTokens(first, own, sung_tokens([decode([token]) for token in own]), decode)


def _language(text: str) -> str:
    title = prompt.lyric_prompt("", "|").split("|")[0]
    body = text.removeprefix(title)
    if body == text or f"\n\n{_TITLE}" not in body:
        raise ValueError(f"{text[:60]!r} is no lyric prompt; it begins with {title!r}.")
    return body.split(f"\n\n{_TITLE}")[0]


def sung_tokens(texts: Sequence[str]) -> np.ndarray:
    """Marks tokens outside brackets, bool [N], from the text of each token alone.

    A token that opens or closes a bracket belongs to it; line breaks outside count as sung.
    """
    inside, sung = False, []
    for text in texts:
        inside = inside or "[" in text
        sung.append(not inside and "]" not in text)
        inside = inside and "]" not in text
    return np.array(sung, bool)


def stack(songs: Sequence[LyricTokens], room: int | None = None) -> LyricSpans:
    """Joins the spans of several songs, with room for `room` tokens (by default the most)."""
    room = max((len(song.ids) for song in songs), default=0) if room is None else room
    sung = np.zeros((len(songs), room), bool)
    for row, song in zip(sung, songs, strict=True):
        row[: len(song.ids)] = song.sung
    counts = [len(song.ids) for song in songs]
    return LyricSpans(np.array([s.first for s in songs], np.int32), np.int32(counts), sung)


def token_texts(ids: Sequence[int], decode: Decode) -> list[str]:
    """Gives the text that each token adds to those before it.

    That is what its decoding has beyond the length in bytes of the decoding before. A token that
    only begins a character shows as U+FFFD, and one that completes it often as nothing.
    """
    texts, length = [], 0
    for end in range(1, len(ids) + 1):
        whole = decode(ids[:end]).encode()
        try:
            texts.append(whole[length:].decode())
        except UnicodeDecodeError:
            texts.append("")
        length = len(whole)
    return texts
