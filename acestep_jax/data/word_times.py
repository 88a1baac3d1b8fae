"""When the words of a clip are sung, for songs whose words have known times."""

import numpy as np
import tokenizers

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.tasks import lyrics, timestamps

UNKNOWN = -1
"""The frames of a token whose time nobody knows."""


def sung_between(labels: labels_lib.SongLabels, start: float, end: float) -> list[labels_lib.Word]:
    """Lists the words that belong to [start, end) seconds: those whose middles do."""
    return [word for word in labels.words if start <= (word.start + word.end) / 2 < end]


def token_frames(
    labels: labels_lib.SongLabels,
    seconds: tuple[float, float],
    told: tuple[float, float],
    tokenizer: tokenizers.Tokenizer,
    tokens: np.ndarray,
) -> np.ndarray:
    """Finds when each token of a clip's lyric prompt is sung.

    All tokens of a word have the word's time. So has a line break behind it, which counts as sung
    where lyrics are scored (`ops.alignment`).

    Args:
      labels: of the song.
      seconds: of the clip, [start, end).
      told: of the lyrics in the prompt, which may be more; what is sung elsewhere is UNKNOWN.
      tokenizer: of the text encoder.
      tokens: the lyric prompt [Ll], padded or cut.

    Returns:
      int32 [Ll, 2], latent frames [first, end) counted from the clip's start, UNKNOWN for the
      others. From the first word on that the prompt writes otherwise than the labels, none is known
      (languages written without spaces: a prompt's word is then a line).
    """
    start, end = seconds
    own_words = sung_between(labels, start, end)
    frames = np.full((len(tokens), 2), UNKNOWN, np.int32)
    own = lyrics.find_lyrics(tokenizer, tokens)
    words = sorted(sung_between(labels, *told), key=lambda word: (word.line, word.start))
    found = timestamps.word_tokens(own.ids, own.sung, own.decode)
    ends = [group[0] for _, group in found[1:]] + [len(own.ids)]
    length = round((end - start) * units.FRAME_RATE)
    for word, (text, group), behind in zip(words, found, ends, strict=False):
        if text != word.text:
            break
        if word not in own_words:
            continue
        first = int(np.clip((word.start - start) * units.FRAME_RATE, 0, length - 1))
        last = int(np.clip(np.ceil((word.end - start) * units.FRAME_RATE), first + 1, length))
        sung = [i for i in range(group[0], behind) if own.sung[i]]
        frames[own.first + np.array(sung)] = first, last
    return frames
