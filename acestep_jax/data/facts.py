"""Prompts for a text encoder to read: captions of songs, with tempo, key and metre drawn anew.

Every tempo and key is seen with every caption, so that they are read and not known by heart.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import tokenizers

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import transforms
from acestep_jax.data.rows import RowBatches
from acestep_jax.data.songs.harmony import KEYS
from acestep_jax.tasks import prompt
from acestep_jax.typing import Array

METRES = labels_lib.TIME_SIGNATURES
UNTOLD = -1
_TRIES = 20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactBatch:
    """Prompts and what they tell; a fact that a prompt leaves out is UNTOLD.

    Attributes:
      tokens, mask: [B, L] int32 and bool, padded on the right.
      bpm: [B] int32, beats a minute.
      key, metre: [B] int32, places in KEYS and METRES.
      ends: [B, 3] int32, the token at which the line of tempo, key and metre ends.
    """

    tokens: Array
    mask: Array
    bpm: Array
    key: Array
    metre: Array
    ends: Array


@dataclasses.dataclass(frozen=True)
class FactSpec:
    """How prompts are made.

    Attributes:
      length: tokens a prompt has room for; longer ones are not used.
      slowest, fastest: tempi are drawn between them, evenly by their logarithm.
      untold: chance that tempo, key or metre is left out, each by itself.
    """

    length: int = 112
    slowest: int = 40
    fastest: int = 220
    untold: float = 0.1


class FactBatches(RowBatches[FactBatch]):
    """An endless iterator over `FactBatch`; prompt n depends on the seed, the songs and n alone."""

    def __init__(
        self,
        songs: Any,
        tokenizer: tokenizers.Tokenizer,
        spec: FactSpec,
        *,
        seed: int,
        batch_size: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """Reads the captions of all songs.

        Args:
          songs: of `data.sources`.
          tokenizer: of the text encoder.
          spec: how prompts are made.
          seed: of all draws.
          batch_size: prompts over all processes.
          process: index and count.

        Raises:
          ValueError: if the processes cannot share a batch.
        """
        super().__init__(FactBatch, batch_size, process)
        self._labels = [songs.record(i).labels for i in range(len(songs))]
        self._tokenizer, self.spec, self._seed = tokenizer, spec, seed

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Makes one prompt: the fields of a batch without B."""
        rng = np.random.default_rng([self._seed, number])
        for _ in range(_TRIES):
            facts = self._draw(rng)
            text = self._write(facts, rng)
            encoding = self._tokenizer.encode(text)
            if len(encoding) <= self.spec.length:
                tokens, mask = transforms.tokenize(self._tokenizer, text, self.spec.length)
                ends = line_ends(encoding, text)
                return {"tokens": tokens, "mask": mask, "ends": ends, **facts}
        raise ValueError(
            f"{_TRIES} prompts in a row are longer than {self.spec.length} tokens; make room for "
            "more (length)."
        )

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws tempo, key and metre, each of them told or not."""
        low, high = math.log(self.spec.slowest), math.log(self.spec.fastest)
        facts = {
            "bpm": round(math.exp(rng.uniform(low, high))),
            "key": int(rng.integers(len(KEYS))),
            "metre": int(rng.integers(len(METRES))),
        }
        told = rng.random(len(facts)) >= self.spec.untold
        return {
            name: np.int32(fact if known else UNTOLD)
            for (name, fact), known in zip(facts.items(), told, strict=True)
        }

    def _write(self, facts: dict[str, np.ndarray], rng: np.random.Generator) -> str:
        """Writes the prompt of a song that these facts are told of."""
        bpm, key, metre = (None if fact == UNTOLD else int(fact) for fact in facts.values())
        labels = self._labels[int(rng.integers(len(self._labels)))]
        keyscale = None if key is None else KEYS[key]
        captions = labels_lib.retold(labels, bpm, keyscale).captions
        return prompt.caption_prompt(
            captions[int(rng.integers(len(captions)))],
            instruction=_instruction(rng),
            bpm=bpm,
            keyscale=keyscale,
            timesignature=None if metre is None else METRES[metre],
            duration=int(rng.integers(5, 61)),
        )


def line_ends(encoding: tokenizers.Encoding, text: str) -> np.ndarray:
    """Finds the tokens that end the lines of tempo, key and metre in a caption prompt: [3]."""
    starts = [start for start, _ in encoding.offsets]
    places = []
    for name in ("bpm", "keyscale", "timesignature"):
        line = text.index(f"- {name}:", text.rindex("# Metas"))
        # the last token that begins at or before the line's newline
        places.append(np.searchsorted(starts, text.index("\n", line), side="right") - 1)
    return np.array(places, np.int32)


def _instruction(rng: np.random.Generator) -> str:
    """Draws a task's sentence; every other prompt is text2music."""
    others = ("cover", "repaint", "extract", "lego", "complete")
    task = "text2music" if rng.random() < 0.5 else others[int(rng.integers(len(others)))]
    return prompt.task_instruction(task)
