"""How far long work has come: songs done, audio seconds a second, time left."""

import time
from collections.abc import Callable


class Progress:
    """Counts songs and says from time to time how far the work is."""

    def __init__(
        self,
        total: int,
        verb: str,
        *,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts counting.

        Args:
          total: songs to do.
          verb: what is done to them, for instance "prepared".
          every: seconds between two lines.
          clock: gives the time in seconds.
        """
        self._total, self._verb, self._every, self._clock = total, verb, every, clock
        self._start = self._said = clock()
        self.done = self.worked = self.found = 0
        self.seconds = 0.0

    def advance(self, seconds: float = 0.0, *, found: bool = False) -> None:
        """Counts one song.

        Args:
          seconds: of audio.
          found: it had been done before, which says nothing about the speed.
        """
        self.done += 1
        self.found += found
        if not found:
            self.worked += 1
            self.seconds += seconds
        now = self._clock()
        if now - self._said >= self._every or self.done == self._total:
            self._said = now
            print(self.line(), flush=True)

    def line(self) -> str:
        """Writes the state, for instance `prepared 20 of 240 songs, 31 × real time, 4 min left`."""
        elapsed = max(self._clock() - self._start, 1e-9)
        line = f"{self._verb} {self.done} of {self._total} songs"
        if self.found:
            line += f" ({self.found} were there)"
        if self.worked:
            left = elapsed / self.worked * (self._total - self.done)
            line += f", {self.seconds:.0f} s of audio at {self.seconds / elapsed:.1f} × real time"
            line += f", {_duration(left)} left" if self.done < self._total else ""
        return line


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
