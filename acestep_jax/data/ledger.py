"""What was really read: tasks, songs passed over, and when there are too many of those."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from absl import logging

from acestep_jax.tasks import edits

NO_TASK = -2
"""Stands for a song that was passed over because it allows none of the tasks."""
REPORT_AFTER = 1000
"""After so many examples the shares of the tasks are logged."""


REDRAWN, WITHOUT_TASK, BAD = "redrawn_tasks", "songs_without_task", "bad_songs"
"""Names of counts, beside those of the tasks."""


class TooManyBadSongs(RuntimeError):
    """More songs than the configuration allows cannot be trained on."""


class Ledger:
    """Counts what this process was given, and names each bad song once."""

    def __init__(
        self,
        num_songs: int,
        max_bad_share: float,
        explain: Callable[[int], str],
        lost: Sequence[int],
    ) -> None:
        """Starts at nothing.

        Args:
          num_songs: of the split.
          max_bad_share: of them may be bad.
          explain: names a bad song and says what is wrong with it.
          lost: songs known to be bad from the start.

        Raises:
          TooManyBadSongs: if those are too many.
        """
        self._num_songs, self._max_bad_share, self._explain = num_songs, max_bad_share, explain
        self._bad = set(lost)
        self._tasks = np.zeros(len(edits.TASKS), int)
        self._redrawn = self._without_task = 0
        if lost:
            self._check(explain(lost[-1]))

    def add(self, task: np.ndarray, wanted: np.ndarray, passed: np.ndarray) -> None:
        """Counts a batch.

        Args:
          task, wanted: [B], the tasks of the examples, and those drawn at first.
          passed: [B, M], the songs passed over before each example: bad ones by their number, those
            that allow no task as NO_TASK; -1 where there is none.

        Raises:
          TooManyBadSongs: if the songs found bad so far are more than allowed.
        """
        before = self._tasks.sum()
        self._tasks += np.bincount(task, minlength=len(edits.TASKS))
        self._redrawn += int((task != wanted).sum())
        self._without_task += int((passed == NO_TASK).sum())
        for song in np.unique(passed[passed >= 0]).tolist():
            self._note_bad(song)
        if before < REPORT_AFTER <= self._tasks.sum():
            self._report()

    def counts(self) -> dict[str, int]:
        """Gives what was counted so far by this process, since it opened the data."""
        return {name: int(count) for name, count in zip(edits.TASKS, self._tasks)} | {
            REDRAWN: self._redrawn,
            WITHOUT_TASK: self._without_task,
            BAD: len(self._bad),
        }

    def summary(self) -> dict[str, float]:
        """Gives `summarise` of this process's counts."""
        return summarise([self.counts()])

    def _note_bad(self, song: int) -> None:
        if song in self._bad:
            return
        self._bad.add(song)
        reason = self._explain(song)
        self._check(reason)
        logging.error("Skipped, with another song in its place: %s.", reason)

    def _check(self, reason: str) -> None:
        if len(self._bad) > self._max_bad_share * self._num_songs:
            raise TooManyBadSongs(
                f"{len(self._bad)} of {self._num_songs} songs cannot be trained on, more than "
                f"data.max_bad_share={self._max_bad_share:g} allows; the last is {reason}. Prepare "
                "the shards anew, or allow more."
            )

    def _report(self) -> None:
        total = self._tasks.sum()
        shares = [f"{n} {c / total:.1%}" for n, c in zip(edits.TASKS, self._tasks) if c]
        log = logging.warning if self._redrawn else logging.info
        log(
            "Tasks of the first %d examples here: %s; %.1f %% were drawn again as their songs lack "
            "the stems.",
            total,
            ", ".join(shares),
            100 * self._redrawn / total,
        )


def summarise(counts: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Adds up the counts of processes or streams, for the log.

    Returns:
      Shares of the tasks, and of the tasks drawn again; how often a song was passed over as it
      allows no task; and how many songs were found bad, one that several processes met once each.
    """
    sums: collections.Counter[str] = collections.Counter()
    for part in counts:
        sums.update(part)
    total = max(1, sum(sums[name] for name in edits.TASKS))
    shares = {f"data/{name}": sums[name] / total for name in edits.TASKS if sums[name]}
    return shares | {
        f"data/{REDRAWN}": sums[REDRAWN] / total,
        f"data/{WITHOUT_TASK}": float(sums[WITHOUT_TASK]),
        f"data/{BAD}": float(sums[BAD]),
    }
