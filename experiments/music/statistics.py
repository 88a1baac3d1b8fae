"""Shares with intervals, and how often an agreement would come about by chance."""

import math
from collections.abc import Sequence

import numpy as np


def wilson(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Gives the 95 % interval of a share (Wilson 1927), which is honest for small counts.

    Raises:
      ValueError: if nothing was counted.
    """
    if count < 1:
        raise ValueError("no trial was counted; a share of nothing has no interval.")
    share, z2 = successes / count, z * z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return middle - half, middle + half


def agreement(matches: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> dict[str, object]:
    """Compares how often estimates agree with their own prompt and with the others'.

    Args:
      matches: bool [N, N]; entry (i, j) says whether the estimate of clip i fits prompt j.
      draws: permutations, and resamplings of the clips.
      seed: of the draws.

    Returns:
      own: share of clips that fit their own prompt, with its Wilson interval; shuffled: the mean
      over all other prompts; gain: their difference with a bootstrap interval over clips; p: share
      of random assignments of prompts that fit at least as often (one of them being the true one).

    Raises:
      ValueError: for fewer than two clips.
    """
    count = len(matches)
    if count < 2:
        raise ValueError(f"{count} clips; shuffled prompts need two at least.")
    rng, own = np.random.default_rng(seed), np.diagonal(matches).astype(float)
    others = (matches.sum(axis=1) - own) / (count - 1)
    rows = np.arange(count)
    shuffled = np.array([matches[rows, rng.permutation(count)].mean() for _ in range(draws)])
    gains = (own - others)[rng.integers(count, size=(draws, count))].mean(axis=1)
    return {
        "own": round(float(own.mean()), 4),
        "own_interval": rounded(wilson(own.sum(), count)),
        "shuffled": round(float(others.mean()), 4),
        "gain": round(float((own - others).mean()), 4),
        "gain_interval": rounded(np.quantile(gains, (0.025, 0.975))),
        "p": float((1 + np.sum(shuffled >= own.mean() - 1e-12)) / (1 + draws)),
    }


def rounded(values: Sequence[float]) -> list[float]:
    """Rounds to four digits, for JSON."""
    return [round(float(value), 4) for value in values]
