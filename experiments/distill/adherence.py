"""Has a student's music the tempo and key that its prompt asks for as often as its teacher's?

The judges are those of `experiments.music`, which no training has heard: librosa's tempo, within
4 %, and a key from the notes that sound. Only prompts that name a tempo or a key are counted.
Intervals are a bootstrap over prompts; that of the difference pairs student and teacher.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.distill.measures import Interval, Weights, bootstrap
from experiments.music import judges

_TEMPO = re.compile(r"^- bpm: (\d+)$", re.MULTILINE)
_KEY = re.compile(r"^- keyscale: (\S+ (?:major|minor))$", re.MULTILINE)


class Asked(NamedTuple):
    """What a prompt asks for; None where it says nothing.

    Attributes:
      tempo: beats a minute.
      key: for instance "C major".
    """

    tempo: float | None
    key: str | None


def read_prompt(text: str) -> Asked:
    """Reads tempo and key from a caption prompt."""
    tempo, key = _TEMPO.search(text), _KEY.search(text)
    return Asked(float(tempo[1]) if tempo else None, key[1] if key else None)


def hits(audio: np.ndarray, asked: Sequence[Asked]) -> dict[str, np.ndarray]:
    """Tells which songs do as asked: {"tempo", "key"}: [N], 1 or 0, NaN where nothing is asked."""
    judge = judges.load_key_judge()
    found = {"tempo": np.full(len(asked), np.nan), "key": np.full(len(asked), np.nan)}
    for i, (song, (tempo, key)) in enumerate(zip(audio, asked, strict=True)):
        if tempo is not None:
            heard = judges.compare_tempo(judges.estimate_tempo(song), tempo)
            found["tempo"][i] = heard == "same"
        if key is not None:
            found["key"][i] = judges.relation(judge.estimate(song), key) == "same"
    return found


def share(hit: np.ndarray) -> Interval:
    """Averages over the prompts that ask."""
    return bootstrap(lambda weights: _mean(hit, weights), len(hit))


def difference(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Subtracts the shares of two sets of songs for the same prompts."""
    return share(ours - theirs)


def _mean(hit: np.ndarray, weights: Weights) -> float:
    weights = weights * np.isfinite(hit)
    count = np.sum(weights)
    return float(np.sum(weights * np.nan_to_num(hit)) / count) if count else float("nan")
