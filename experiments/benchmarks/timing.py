"""Clocks, and the order in which contestants are timed.

Contestants take turns, A B A B ..., so that whatever else the machine does falls on both, and a
square matrix product of each contestant's own library is timed right before and after each of its
runs. The best clock on a busy machine is the processor time of a single thread on a single core.
"""

import dataclasses
import os
import statistics
from collections.abc import Callable, Mapping, Sequence

Run = Callable[[], object]
"""Does the work once and returns when it is done."""

Clock = Callable[[], float]
"""Seconds; `time.perf_counter`, or `time.process_time` for the processor time of all threads."""

_PRODUCTS = 5  # matrix products a measurement of the rate; their median counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """Somebody to time.

    Attributes:
      run: the item.
      product: one square matrix product in the same library, dtype and threads.
      product_operations: floating-point operations of `product`.
    """

    run: Run
    product: Run
    product_operations: float

    def rate(self, clock: Clock) -> float:
        """Measures operations a second in the matrix product."""
        return self.product_operations / statistics.median(
            _time(self.product, clock) for _ in range(_PRODUCTS)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One run.

    Attributes:
      seconds: of the run.
      rate: operations a second in matrix products around it.
    """

    seconds: float
    rate: float


def limit_threads(threads: int | None, *, pinned: bool) -> int:
    """Confines this process to some of its cores, before any library starts its threads.

    Args:
      threads: how many; None for all there are.
      pinned: to the last core alone.

    Returns:
      The number of cores there are to use: fewer than asked for on a smaller machine.
    """
    cores = sorted(os.sched_getaffinity(0))
    chosen = cores[-1:] if pinned else cores[: threads or len(cores)]
    os.sched_setaffinity(0, chosen)
    return len(chosen)


def take_turns(
    contestants: Mapping[str, Contestant], clock: Clock, repeats: int
) -> dict[str, list[Timing]]:
    """Times every contestant `repeats` times in turn, after one run each that is not counted."""
    for contestant in contestants.values():
        contestant.run()
        contestant.product()
    timings: dict[str, list[Timing]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            before = contestant.rate(clock)
            seconds = _time(contestant.run, clock)
            rate = (before + contestant.rate(clock)) / 2
            timings[name].append(Timing(seconds=seconds, rate=rate))
    return timings


def _time(run: Run, clock: Clock) -> float:
    start = clock()
    run()
    return clock() - start


def summarise(timings: Sequence[Timing], operations: float) -> dict[str, float]:
    """Reduces one contestant's runs to medians and their spread.

    Args:
      timings: its runs.
      operations: floating-point operations of the item's matrix products.

    Returns:
      median_s, low_s and high_s of the times; product_gflops, the median rate of the matrix
      products; and share, the median of operations / (time · rate).
    """
    seconds = [timing.seconds for timing in timings]
    return {
        "median_s": statistics.median(seconds),
        "low_s": min(seconds),
        "high_s": max(seconds),
        "product_gflops": statistics.median(timing.rate for timing in timings) / 1e9,
        "share": statistics.median(
            operations / (timing.seconds * timing.rate) for timing in timings
        ),
    }


def ratio(ours: Sequence[Timing], theirs: Sequence[Timing]) -> float:
    """Computes how many times faster ours are: the median over turns of their time over ours."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))
