"""The planner as a listener: how well codes predict the song that they were written for.

    listener = Listener.of(planner.module, planner.vocabulary)
    sheet = write_sheet(vocabulary, [target_parts(caption, lyrics, metadata)], size=256)
    heard = listener.hear(params, code_tokens, code_mask, sheet)
    scores = pmi.score(heard, listener.guess(params, sheet))

All texts about a song are asked for in one pass: behind the prompt with the codes they stand one
after another, each sees the prompt and itself alone and counts on from the prompt's end. So a row
has the numbers of as many passes, and nothing leaves the device. What the listener guesses without
codes is a pass of its own, one for all songs of a prompt.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import packing, pmi
from acestep_jax.ops.pmi import CONDITIONS, RECALLED, Marks
from acestep_jax.sampling import scoring
from acestep_jax.tasks.planning import chat
from acestep_jax.tasks.planning.blueprint import canonical
from acestep_jax.tasks.planning.chat import Parts
from acestep_jax.tasks.planning.vocabulary import User, Vocabulary
from acestep_jax.typing import Array, Params


class Sheet(NamedTuple):
    """Texts about songs, packed into rows: tokens int32 [B, S] and whose they are [B, S].

    `parts` holds 1 + the index into `ops.pmi.CONDITIONS`, 0 for padding.
    """

    tokens: Array | np.ndarray
    parts: Array | np.ndarray


# Texts --------------------------------------------------------------------------------------------


def target_parts(
    caption: str | None,
    lyrics: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    as_trained: bool = False,
) -> dict[str, Parts]:
    """Writes what a listener should say of a song, a text for each condition that there is.

    Args:
      caption: scored even if empty; None leaves it out. One among the metadata goes first.
      lyrics: left out if empty.
      metadata: {field: value}; what is None or no field is left out.
      as_trained: write values as chains of thought do, 4 for "4" and for "4/4". The release dumps
        them as they are given, which its listener has never seen for digits in quotes.
    """
    values = {"caption": caption, **(metadata or {})}
    if as_trained:
        values = canonical(values)
    found = {
        name: _thought({name: values[name]})
        for name in (*RECALLED, "caption")
        if values.get(name) is not None
    }
    if lyrics:
        found["lyrics"] = ["<think>\n</think>\n# Lyric\n", User(lyrics), "\n"]
    return found


def _thought(values: Mapping[str, Any]) -> Parts:
    import yaml

    text = yaml.dump(dict(values), allow_unicode=True, sort_keys=True).strip()
    return ["<think>\n", User(text), "\n</think>\n"]


def write_sheet(vocabulary: Vocabulary, songs: Sequence[Mapping[str, Parts]], size: int) -> Sheet:
    """Packs the texts of songs into rows of `size` tokens.

    Raises:
      ValueError: if a song's texts are longer.
    """
    tokens = np.full((len(songs), size), vocabulary.pad, np.int32)
    parts = np.zeros((len(songs), size), np.int32)
    for row, texts in enumerate(songs):
        encoded = [(name, vocabulary.encode_prompt(text)) for name, text in texts.items()]
        needed = sum(len(ids) for _, ids in encoded)
        if needed > size:
            raise ValueError(
                f"the texts about a song have {needed} tokens and rows hold {size}; lengthen the "
                "rows or shorten the clips."
            )
        start = 0
        for name, ids in encoded:
            tokens[row, start : start + len(ids)] = ids
            parts[row, start : start + len(ids)] = 1 + CONDITIONS.index(name)
            start += len(ids)
    return Sheet(tokens, parts)


# Listening ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Listener:
    """A planner in its understanding role; hashable, as jit wants it.

    Attributes:
      module: a Qwen3.
      before, after: tokens of the prompt around the codes.
      without: tokens of the prompt without any.
      top_k: k of the recall.
      recall: how ranks count, see `pmi.RECALLS`.
      columns: tokens of a song whose logits are held at once.
    """

    module: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    without: tuple[int, ...]
    top_k: int = pmi.TOP_K
    recall: str = "ranked"
    columns: int = 64

    @classmethod
    def of(cls, module: Any, vocabulary: Vocabulary, **options: Any) -> "Listener":
        """Takes the prompts that generation understands songs by."""
        before, _, after = chat.opening("understand", [""])
        without = "".join(chat.opening("understand", [chat.NO_INPUT]))
        prompts = (tuple(vocabulary.encode(text)) for text in (before, after, without))
        return cls(module, *prompts, **options)

    def hear(self, params: Params, tokens: Array, mask: Array, sheet: Sheet) -> Marks:
        """Marks the texts about songs whose code tokens [B, Q] are real where `mask` [B, Q]."""
        ends = [self._row(ids, tokens.shape[0]) for ids in (self.before, self.after)]
        prefix = jnp.concatenate([ends[0], tokens, ends[1]], axis=1)
        real = [jnp.ones(end.shape, bool) for end in ends]
        return self._mark(params, prefix, jnp.concatenate([real[0], mask, real[1]], axis=1), sheet)

    def guess(self, params: Params, sheet: Sheet) -> Marks:
        """Marks the same texts where nothing is heard: what they are worth by themselves."""
        prefix = self._row(self.without, sheet.tokens.shape[0])
        return self._mark(params, prefix, jnp.ones(prefix.shape, bool), sheet)

    def _row(self, ids: Sequence[int], batch: int) -> Array:
        return jnp.broadcast_to(jnp.asarray(ids, jnp.int32)[None], (batch, len(ids)))

    def _mark(self, params: Params, prefix: Array, real: Array, sheet: Sheet) -> Marks:
        tokens, parts = jnp.asarray(sheet.tokens), jnp.asarray(sheet.parts)
        hidden = self.module.apply(
            {"params": params},
            jnp.concatenate([prefix, tokens], axis=1),
            mask=_visible(real, parts),
            positions=_positions(real, parts),
        )
        last = prefix.shape[1] - 1
        before, first = hidden[:, last:-1], packing.segment_positions(parts) == 0
        before = jnp.where(first[..., None], hidden[:, last : last + 1], before)

        def score(part: tuple[Array, Array]) -> tuple[Array, Array]:
            logits = self.module.apply({"params": params}, part[0], method="logits")
            return pmi.token_scores(logits, part[1])

        log_probs, ranks = scoring.in_columns(score, (before, tokens), self.columns)
        return pmi.mark(log_probs, ranks, parts, self.top_k, self.recall)


def _visible(real: Array, parts: Array) -> Array:
    """Shows the prompt to every text, and each text to itself: [B, P + S, P + S]."""
    segments = jnp.concatenate([jnp.where(real, 0, -1), jnp.where(parts > 0, parts, -1)], axis=1)
    seen = segments[:, None, :]
    return (seen == 0) | ((seen > 0) & (seen == segments[:, :, None]))


def _positions(real: Array, parts: Array) -> Array:
    """Numbers the prompt's tokens from 0, and those of every text from the prompt's end."""
    inside = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
    behind = jnp.sum(real, axis=1, keepdims=True) + packing.segment_positions(parts)
    return jnp.concatenate([inside, behind], axis=1).astype(jnp.int32)
