"""Songs to ask a planner for: prompts, the grammar's programs, and what a listener should say.

A row is one prompt. With `plan="given"` it ends behind a finished thought, and codes follow,
exactly as many as the clip has; with "written" it ends where the assistant's turn begins, and the
program lets the planner think by itself, with the clip's duration settled so that lengths are
bounded. Songs need no codes of their own: only their labels are read.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from acestep_jax import units
from acestep_jax.data import transforms
from acestep_jax.data.rows import RowBatches
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.tasks import prompt
from acestep_jax.tasks.planning import blueprint, chat, listener
from acestep_jax.tasks.planning.grammar import Book
from acestep_jax.tasks.planning.listener import Sheet
from acestep_jax.tasks.request import CODES_PER_SECOND
from acestep_jax.typing import Array

_TRIES = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class BriefSpec:
    """How prompts are made of songs.

    Attributes:
      plan: who writes the chain of thought, see above.
      seconds: shortest and longest song.
      prompt_tokens: room for a prompt (T); songs whose prompt is longer are passed over.
      sheet_tokens: room for what a listener should say (S); the same.
      as_trained: see `listener.target_parts`.
    """

    plan: Literal["given", "written"] = "given"
    seconds: tuple[int, int] = (10, 30)
    prompt_tokens: int = 256
    sheet_tokens: int = 256
    as_trained: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BriefBatch:
    """Prompts; [N, ...].

    Attributes:
      tokens, mask: [N, T] int32 and bool, padded on the left.
      programs: [N, P] int32, of the chain of thought; END alone where the thought is given.
      codes: [N] int32, how many there are to write.
      texts, parts: [N, S] int32, a `listener.Sheet`.
    """

    tokens: Array
    mask: Array
    programs: Array
    codes: Array
    texts: Array
    parts: Array

    @property
    def sheet(self) -> Sheet:
        """What a listener should say."""
        return Sheet(self.texts, self.parts)


def program(book: Book, spec: BriefSpec, seconds: int) -> list[int]:
    """Writes the grammar's program of a song: its thought, with the duration settled."""
    if spec.plan == "given":
        return [book.state(grammar_lib.END)]
    return book.program(given={"duration": seconds}, ending="codes")


def program_size(book: Book, spec: BriefSpec) -> int:
    """Gives the length of the longest program (P): that of the duration with most digits."""
    return len(program(book, spec, spec.seconds[1]))


def batch_shapes(book: Book, spec: BriefSpec, batch_size: int) -> BriefBatch:
    """Gives the shapes of a run's batches."""

    def shape(dtype: type, *rest: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *rest), dtype)

    return BriefBatch(
        tokens=shape(np.int32, spec.prompt_tokens),
        mask=shape(bool, spec.prompt_tokens),
        programs=shape(np.int32, program_size(book, spec)),
        codes=shape(np.int32),
        texts=shape(np.int32, spec.sheet_tokens),
        parts=shape(np.int32, spec.sheet_tokens),
    )


class BriefBatches(RowBatches[BriefBatch]):
    """An endless iterator over `BriefBatch`; row n depends on the seed, the songs and n alone."""

    def __init__(
        self,
        songs: Any,
        book: Book,
        spec: BriefSpec,
        *,
        seed: int,
        batch_size: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """Opens songs (`data.sources`).

        Args:
          songs: of one split.
          book: the planner's vocabulary and grammar.
          spec: how prompts are made.
          seed: of all draws.
          batch_size: prompts over all processes (N).
          process: index and count.

        Raises:
          ValueError: if the processes cannot share a batch, or no song is long enough.
        """
        super().__init__(BriefBatch, batch_size, process)
        long = units.FRAME_RATE * spec.seconds[0]
        self._chosen = [i for i, frames in enumerate(songs.frames) if frames >= long]
        if not self._chosen:
            raise ValueError(f"no song lasts {spec.seconds[0]} s; shorten the clips (seconds).")
        self._songs, self._book, self.spec, self._seed = songs, book, spec, seed
        self._program_size = program_size(book, spec)

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Makes one prompt: draws songs until one fits.

        Raises:
          ValueError: if none of many does.
        """
        rng = np.random.default_rng([self._seed, number])
        for _ in range(_TRIES):
            labels = self._songs.record(self._chosen[int(rng.integers(len(self._chosen)))]).labels
            made = self._make(labels, rng)
            if made is not None:
                return made
        raise ValueError(
            f"of {_TRIES} songs in a row none fits prompts of {self.spec.prompt_tokens} and texts "
            f"of {self.spec.sheet_tokens} tokens; lengthen them or shorten the clips (seconds)."
        )

    def _make(self, labels: Any, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
        low, high = self.spec.seconds
        whole = int(labels.seconds)
        seconds = min(int(rng.integers(low, high + 1)), whole)
        start = int(rng.integers(0, whole - seconds + 1))
        lyrics = transforms.clip_lyrics(labels, start, start + seconds) or prompt.INSTRUMENTAL
        captions = labels.captions or ("",)
        asked, written = (captions[int(rng.integers(len(captions)))] for _ in range(2))
        values = {
            "bpm": labels.bpm,
            "duration": seconds,
            "keyscale": labels.keyscale,
            "language": labels.language,
            "timesignature": labels.timesignature,
        }
        vocabulary, spec = self._book.vocabulary, self.spec
        parts = chat.plan_prompt(asked, lyrics)
        if spec.plan == "given":
            thought = blueprint.write_cot(values | {"caption": written})
            parts = chat.code_prompt(asked, lyrics, thought)
        ids = vocabulary.encode_prompt(parts)
        texts = listener.target_parts(asked, lyrics, values, as_trained=spec.as_trained)
        try:
            sheet = listener.write_sheet(vocabulary, [texts], spec.sheet_tokens)
        except ValueError:
            return None
        if len(ids) > spec.prompt_tokens:
            return None
        return self._lay_out(ids, seconds, sheet)

    def _lay_out(self, ids: Sequence[int], seconds: int, sheet: Sheet) -> dict[str, np.ndarray]:
        size = self.spec.prompt_tokens
        tokens = np.full(size, self._book.vocabulary.pad, np.int32)
        tokens[size - len(ids) :] = ids
        entries = program(self._book, self.spec, seconds)
        end = self._book.state(grammar_lib.END)
        padded = [*entries, *[end] * (self._program_size - len(entries))]
        return {
            "tokens": tokens,
            "mask": np.arange(size) >= size - len(ids),
            "programs": np.array(padded, np.int32),
            "codes": np.array(seconds * CODES_PER_SECOND, np.int32),
            "texts": np.asarray(sheet.tokens[0]),
            "parts": np.asarray(sheet.parts[0]),
        }
