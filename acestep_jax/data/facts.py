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
from acestep_jax.data.songs.harmony import KEY_NAMES
from acestep_jax.tasks import prompt
from acestep_jax.typing import Array

KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in KEY_NAMES)
METRES = labels_lib.TIME_SIGNATURES
UNTOLD = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactBatch:
    """Prompts and what they tell; a fact that a prompt leaves out is UNTOLD.

    Attributes:
      tokens, mask: [B, L] int32 and bool, padded on the right.
      bpm: [B] int32, beats a minute.
      key, metre: [B] int32, places in KEYS and METRES.
    """

    tokens: Array
    mask: Array
    bpm: Array
    key: Array
    metre: Array


@dataclasses.dataclass(frozen=True)
class FactSpec:
    """How prompts are made.

    Attributes:
      length: tokens a prompt has room for; longer ones lose their middle.
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
        rng, spec = np.random.default_rng([self._seed, number]), self.spec
        labels = self._labels[int(rng.integers(len(self._labels)))]
        bpm = round(math.exp(rng.uniform(math.log(spec.slowest), math.log(spec.fastest))))
        key, metre = int(rng.integers(len(KEYS))), int(rng.integers(len(METRES)))
        told = rng.random(3) >= spec.untold
        text = prompt.caption_prompt(
            _caption(labels, bpm, KEYS[key], rng),
            instruction=_instruction(rng),
            bpm=bpm if told[0] else None,
            keyscale=KEYS[key] if told[1] else None,
            timesignature=METRES[metre] if told[2] else None,
            duration=int(rng.integers(5, 61)),
        )
        tokens, mask = transforms.tokenize(self._tokenizer, text, spec.length)
        facts = (
            np.int32(fact if known else UNTOLD)
            for fact, known in zip((bpm, key, metre), told, strict=True)
        )
        return {"tokens": tokens, "mask": mask} | dict(
            zip(("bpm", "key", "metre"), facts, strict=True)
        )


def _caption(labels: labels_lib.SongLabels, bpm: int, key: str, rng: np.random.Generator) -> str:
    """Draws a caption, which names no other tempo and no other key."""
    captions = labels_lib.retold(labels, bpm, key).captions
    return captions[int(rng.integers(len(captions)))]


def _instruction(rng: np.random.Generator) -> str:
    """Draws a task's sentence; every other prompt is text2music."""
    names = ("text2music", "cover", "repaint", "extract", "lego", "complete")
    return prompt.task_instruction(names[max(0, int(rng.integers(-5, len(names))))], ())
