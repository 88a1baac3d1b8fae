"""What one must beat to have learned anything of the order of codes: unigram and bigram models.

Both are counted on training songs. The bigram is smoothed towards the unigram, the unigram towards
equal chances, with the weight that serves held-out training songs best.
"""

from collections.abc import Sequence

import numpy as np

Codes = np.ndarray
WEIGHTS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Candidates for the number of observations that the coarser model counts for."""


class Counts:
    """Unigram and bigram counts with Dirichlet smoothing.

    p1(b) = (n(b) + w1 / Q) / (n + w1),   p2(b | a) = (n(a, b) + w2 p1(b)) / (n(a) + w2)
    """

    def __init__(self, songs: Sequence[Codes], num_codes: int) -> None:
        """Counts codes and neighbours; fits the two weights on every fifth song."""
        self._size = num_codes
        rest = [song for i, song in enumerate(songs) if i % 5]
        held = [song for i, song in enumerate(songs) if not i % 5]
        self._count(rest or songs)
        self._first = min(WEIGHTS, key=lambda w: self._unigram_loss(held, w))
        self._second = min(WEIGHTS, key=lambda w: self._bigram_loss(held, w))
        self._count(songs)

    def _count(self, songs: Sequence[Codes]) -> None:
        self._single = np.zeros(self._size)
        self._pairs: dict[tuple[int, int], float] = {}
        self._from = np.zeros(self._size)
        for song in songs:
            np.add.at(self._single, song, 1)
            np.add.at(self._from, song[:-1], 1)
            for pair in zip(song[:-1].tolist(), song[1:].tolist(), strict=True):
                self._pairs[pair] = self._pairs.get(pair, 0) + 1

    def _unigram(self, weight: float) -> np.ndarray:
        return (self._single + weight / self._size) / (self._single.sum() + weight)

    def _unigram_loss(self, songs: Sequence[Codes], weight: float) -> float:
        p = self._unigram(weight)
        return float(np.mean([-np.log(p[song]).mean() for song in songs]))

    def _bigram_loss(self, songs: Sequence[Codes], weight: float) -> float:
        return float(np.mean([self._bigram_losses(song, weight).mean() for song in songs]))

    def _bigram_losses(self, song: Codes, weight: float) -> np.ndarray:
        p1 = self._unigram(self._first)
        pairs = zip(song[:-1].tolist(), song[1:].tolist(), strict=True)
        seen = np.array([self._pairs.get(pair, 0.0) for pair in pairs])
        p2 = (seen + weight * p1[song[1:]]) / (self._from[song[:-1]] + weight)
        return np.concatenate([-np.log(p1[song[:1]]), -np.log(p2)])

    def unigram(self, song: Codes) -> float:
        """Gives the mean of -log p1 over a song's codes, in nats."""
        return float(-np.log(self._unigram(self._first)[song]).mean())

    def bigram(self, song: Codes) -> float:
        """Gives the mean of -log p2 over a song's codes, the first by p1."""
        return float(self._bigram_losses(song, self._second).mean())
