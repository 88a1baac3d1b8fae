"""Lyrics with their times: tokens, lines, words, and LRC files.

Times come from a path through the sharpened attention map (`ops.alignment.sharpen`): a token starts
with its first frame and ends where its last one starts, so that one on a single frame has no
length. All of this is the release's, but for words, which it does not have.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from acestep_jax.tasks.lyrics import Decode, token_texts


@dataclasses.dataclass(frozen=True)
class Timed:
    """A piece of the lyrics with its seconds.

    Attributes:
      text: of the line or word, without white space around it.
      start, end: seconds; lines are rounded to milliseconds.
      confidence: from the tokens' probabilities; the release has none and writes 0.
    """

    text: str
    start: float
    end: float
    confidence: float = 0.0


def token_times(
    first: np.ndarray, last: np.ndarray, num_tokens: int, seconds_per_frame: float
) -> np.ndarray:
    """Turns the first and last frames of a path's rows into seconds: float64 [num_tokens, 2].

    Tokens beyond the rows happen, without length, at the end of the token before.
    """
    rows = min(num_tokens, len(first))
    times = np.stack([first[:rows], last[:rows]], -1).astype(np.float64) * seconds_per_frame
    previous = times[-1, 1] if rows else 0.0
    return np.concatenate([times, np.full((num_tokens - rows, 2), previous)])


def lines(
    ids: Sequence[int], times: np.ndarray, decode: Decode, probabilities: Sequence[float] = ()
) -> list[Timed]:
    """Groups tokens into lines; tags are lines as well, blank lines are none.

    A line ends with the token that has a line break in it, and that token's time counts.

    Args:
      ids: tokens of the lyrics.
      times: seconds [N, 2] from `token_times`.
      decode: of the tokenizer.
      probabilities: of each token, if there are any.
    """
    texts = token_texts(ids, decode)
    certain = np.asarray([*probabilities, *[0.0] * (len(ids) - len(probabilities))])
    breaks = [i + 1 for i, text in enumerate(texts) if "\n" in text]
    found, means = [], []
    for start, end in zip([0, *breaks], [*breaks, len(ids)], strict=True):
        text = decode(ids[start:end]).strip() if end > start else ""
        if text:
            span = round(float(times[start, 0]), 3), round(float(times[end - 1, 1]), 3)
            found.append(Timed(text, *span))
            own = certain[start:end]
            means.append(own[own > 0].mean() if np.any(own > 0) else 0.0)
    return [
        dataclasses.replace(line, confidence=value)
        for line, value in zip(found, _stretched(means), strict=True)
    ]


def _stretched(values: Sequence[float]) -> list[float]:
    """Stretches confidences to [0, 1] where they differ, rounded to two places."""
    if not values:
        return []
    low, span = min(values), max(values) - min(values)
    return [round(float((v - low) / span if span > 1e-9 else v), 2) for v in values]


def words(ids: Sequence[int], times: np.ndarray, sung: np.ndarray, decode: Decode) -> list[Timed]:
    """Times sung words, as `word_tokens` groups them. The release has no words.

    Args:
      ids, times, decode: as for `lines`.
      sung: bool [N], from `lyrics.sung_tokens`.
    """
    return [
        Timed(text, float(times[group[0], 0]), float(times[group[-1], 1]))
        for text, group in word_tokens(ids, sung, decode)
    ]


def word_tokens(
    ids: Sequence[int], sung: np.ndarray, decode: Decode
) -> list[tuple[str, list[int]]]:
    """Groups sung tokens into words: one begins with a space, behind a line break or a tag.

    In languages written without spaces a word is a whole line.

    Args:
      ids, decode: as for `lines`.
      sung: bool [N], from `lyrics.sung_tokens`.

    Returns:
      (word, places of its tokens), in order.
    """
    groups: list[list[int]] = []
    fresh = True
    for i, text in enumerate(token_texts(ids, decode)):
        if sung[i] and (text.strip() or "\n" not in text):
            if fresh or text[:1].isspace():
                groups.append([])
            groups[-1].append(i)
            fresh = "\n" in text
        else:
            fresh = True
    spoken = [(decode([ids[i] for i in group]).strip(), group) for group in groups]
    return [(text, group) for text, group in spoken if text]


def lrc(timed: Sequence[Timed], *, ends: bool = False, carry: bool = False) -> str:
    """Writes LRC: a line `[mm:ss.xx]text` for each piece, without a last line break.

    Args:
      timed: lines, or words.
      ends: write `[start][end]text`.
      carry: carry what rounds up to a minute, [01:00.00]; the release prints [00:60.00].
    """
    return "\n".join(
        _stamp(piece.start, carry) + (_stamp(piece.end, carry) if ends else "") + piece.text
        for piece in timed
    )


def _stamp(seconds: float, carry: bool) -> str:
    seconds = round(seconds, 2) if carry else seconds
    return f"[{int(seconds // 60):02d}:{seconds % 60:05.2f}]"
