"""The examples of a stream: a window's own, or in place of a bad song's that of another window."""

from collections.abc import Sequence

import numpy as np

from acestep_jax.data import batch as batch_lib
from acestep_jax.data import shards, sources, transforms
from acestep_jax.data.ledger import NO_TASK, TooManyBadSongs
from acestep_jax.data.windows import Windows
from acestep_jax.tasks.tokens import load_tokenizer

MAX_PASSED = 64
"""An example is looked for in so many songs; if none will do, something is wrong with the data."""
_NOTES = ("task", "wanted", "passed")


class ExampleMaker:
    """Makes the example of a window, or of another if that one's song is not fit for any.

    Opens the tokenizer where it is used, once a process.
    """

    def __init__(
        self,
        songs: sources.SongSource,
        windows: Windows,
        spec: transforms.ExampleSpec,
        tokenizer: str,
    ) -> None:
        self._songs, self._windows, self._spec, self._folder = songs, windows, spec, tokenizer
        self._silence = songs.silence_latent[0]
        self._tokenizer = None

    def __call__(self, window: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._folder)
        passed = np.full(MAX_PASSED, -1, np.int32)
        for i in range(MAX_PASSED):
            song, first = window
            try:
                return self._make(song, first, rng) | {"passed": passed}
            except shards.BadRecord as error:
                passed[i], reason = song, error
            except transforms.NoTask as error:
                passed[i], reason = NO_TASK, error
            window = self._windows[int(rng.integers(len(self._windows)))]
        raise TooManyBadSongs(
            f"{MAX_PASSED} songs were drawn for one example and none of them would do; the last: "
            f"{self._songs.place(song)}: {reason}. Tasks in training: {dict(self._spec.tasks)}; "
            "tasks on stems need a folder of songs that have them."
        )

    def _make(self, song: int, first: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        record = self._songs.record(song)
        return transforms.make_example(
            record, first, self._spec, self._silence, self._tokenizer, rng
        )

    def explain(self, song: int) -> str:
        """Names a bad song and says what is wrong with it."""
        try:
            transforms.require_precomputed(self._songs.record(song), self._spec)
        except shards.BadRecord as error:
            return f"{self._songs.place(song)}: {error}"
        return f"{self._songs.place(song)}: it could not be read a moment ago"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tokenizer": None}


def stack(examples: Sequence[dict[str, np.ndarray]]) -> tuple[batch_lib.Batch, dict]:
    """Stacks examples into a batch, and beside it what the ledger counts."""
    notes = {name: np.stack([example[name] for example in examples]) for name in _NOTES}
    return batch_lib.stack_examples(examples), notes
