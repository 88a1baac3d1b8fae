"""Songs cut into windows of one length, and windows in a shuffled, endless order."""

import hashlib
from typing import Any

import numpy as np

from acestep_jax.data import sources


class Windows:
    """A random-access source of (song, first frame): chosen songs, cut into windows of one length.

    A song of n windows appears n times, so that long songs are heard in proportion; the loader
    moves each window by a random part of its length. Songs shorter than a window appear once.

    Attributes:
      num_frames: length of a window.
      filled: mean share of a window that its song fills; the rest is padding.
    """

    def __init__(self, songs: sources.SongSource, chosen: np.ndarray, num_frames: int) -> None:
        """Cuts the chosen songs into windows of `num_frames`."""
        self.num_frames = num_frames
        self._songs = np.asarray(chosen, np.int64)
        lengths = songs.frames[self._songs]
        counts = np.maximum(1, lengths // num_frames)
        self._ends = np.cumsum(counts)
        self.filled = float(np.minimum(lengths / num_frames, 1) @ counts) / max(1, len(self))
        content = np.array([self._songs, lengths])
        self._digest = hashlib.sha256(content.astype("<i8").tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[int, int]:
        place = int(np.searchsorted(self._ends, index, side="right"))
        first = index - (int(self._ends[place - 1]) if place else 0)
        return int(self._songs[place]), first * self.num_frames

    def __repr__(self) -> str:
        # grain names sources by their repr, and a saved position is compared by it
        return f"Windows({len(self)} of {self.num_frames}, {self._digest})"


class Shuffled:
    """Windows in endless epochs, each in an order of its own.

    For sets that are small beside 2**16: there grain's shuffle, which asks no memory, takes up to
    milliseconds an element, as it walks through 2**16 places to find one of the few.
    """

    LARGEST = 2**14

    def __init__(self, windows: Windows, seed: int, length: int) -> None:
        """Draws nothing yet; `length` elements are enough for any run."""
        self._windows, self._seed, self._length = windows, seed, length
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int]:
        epoch, place = divmod(index, len(self._windows))
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._windows))
            self._order = epoch, order  # replaced in one piece: threads share this object
        return self._windows[int(order[place])]

    def __repr__(self) -> str:
        return f"Shuffled({self._windows!r}, {self._seed})"
