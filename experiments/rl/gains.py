"""What tuning gained, over prompts: means, the best of several without tuning, and intervals.

Rewards are [P, M]: M answers to each of P prompts. Intervals are percentiles of a bootstrap over
prompts, a prompt with all its answers; differences are resampled together.
"""

from collections.abc import Mapping

import numpy as np

from experiments.distill.measures import Interval, bootstrap


def mean(rewards: np.ndarray) -> Interval:
    """Averages over prompts."""
    own = rewards.mean(axis=1)
    return bootstrap(lambda w: float(np.average(own, weights=w)), len(own))


def best_of(rewards: np.ndarray, count: int) -> np.ndarray:
    """Gives the expected best of `count` answers of each prompt, [P], from all M of them.

    The k-th smallest of M is the best of a draw of n without replacement in (k-1 over n-1) of
    (M over n) cases.

    Raises:
      ValueError: if there are fewer answers.
    """
    members = rewards.shape[1]
    if count > members:
        raise ValueError(f"the best of {count} from {members} answers; sample more of them.")
    ranked = np.sort(rewards, axis=1)
    # log-free: the ratios of binomials stay exact in float64 for the few answers there are
    chance = np.zeros(members)
    chance[-1] = count / members
    for k in range(members - 1, count - 1, -1):  # from the k + 1-th smallest to the k-th
        chance[k - 1] = chance[k] * (k - count + 1) / k
    return ranked @ chance


def gain(tuned: np.ndarray, start: np.ndarray, count: int = 1) -> Interval:
    """Compares the tuned mean with the start's best of `count`, prompt by prompt."""
    own = tuned.mean(axis=1) - best_of(start, count)
    return bootstrap(lambda w: float(np.average(own, weights=w)), len(own))


def compare(tuned: np.ndarray, start: np.ndarray) -> dict[str, list[float]]:
    """Lists means, the start's best of 2, 4, ..., and what tuning gained over each."""
    found = {"start": mean(start), "tuned": mean(tuned), "gain": gain(tuned, start)}
    count = 2
    while count <= start.shape[1]:
        best = best_of(start, count)[:, None]
        found |= {f"best of {count}": mean(best), f"gain over it ({count})": gain(tuned, best)}
        count *= 2
    return {name: rounded(interval) for name, interval in found.items()}


def rounded(interval: Interval) -> list[float]:
    """Gives [value, low, high] with four digits."""
    return [round(value, 4) for value in interval]


def line(name: str, numbers: Mapping[str, list[float]]) -> str:
    """Writes a comparison for people."""
    parts = (f"{k} {v[0]:.4f} ({v[1]:.4f} to {v[2]:.4f})" for k, v in numbers.items())
    return f"{name}: {'; '.join(parts)}"
