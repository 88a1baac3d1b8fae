"""Data in phases: an iterator that opens each phase's batches when its first step comes.

    batches = curriculum.PhasedBatches([800, 200], lambda i: loader.make_batches(...))

The batches of a phase begin at its own start, so that lengthening an earlier phase does not change
what a later one sees; and the position is saved as one: which step, and where its phase stands.
"""

import collections
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class ResumableBatches(Protocol):
    """What a phase iterates over; `data.loader.Batches` is one."""

    def __next__(self) -> Any:
        """Gives the next batch."""

    def get_state(self) -> Any:
        """Gives the position after the last batch handed out, as JSON keeps it."""

    def set_state(self, state: Any) -> None:
        """Goes back to a position."""

    def close(self) -> None:
        """Stops reading ahead."""

    def counts(self) -> dict[str, int]:
        """Gives what was counted so far (`data.ledger`)."""


class PhasedBatches:
    """Iterates over the batches of one phase after another; the last phase never ends."""

    def __init__(self, lengths: Sequence[int], open_phase: Callable[[int], Any]) -> None:
        """Starts at the first batch of the first phase.

        Args:
          lengths: steps of each phase.
          open_phase: gives the batches of a phase by its number, from their start.

        Raises:
          ValueError: if there is no phase, or one without steps.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"phases of {list(lengths)} steps; every phase needs at least one.")
        self._starts = [0, *itertools.accumulate(lengths[:-1])]
        self._open_phase = open_phase
        self._position = 0
        self._earlier: collections.Counter[str] = collections.Counter()
        self._phase, self._batches = 0, open_phase(0)

    @property
    def phase(self) -> int:
        """The phase of the next batch, counted from 0."""
        return self._phase_of(self._position)

    @property
    def current(self) -> Any:
        """The batches of the phase at hand."""
        return self._batches

    def __iter__(self) -> "PhasedBatches":
        return self

    def __next__(self) -> Any:
        self._enter(self.phase)
        self._position += 1
        return next(self._batches)

    def counts(self) -> dict[str, int]:
        """Gives what this process has counted, of all phases it has seen."""
        return dict(self._earlier + collections.Counter(self._batches.counts()))

    def get_state(self) -> dict[str, Any]:
        """Gives the position: batches handed out, and that of the last one's phase."""
        return {
            "position": self._position,
            "phase": self._phase,
            "batches": self._batches.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position from `get_state`.

        Raises:
          ValueError: if the phases were others, so that the position lies in another one.
        """
        position, phase = state["position"], state["phase"]
        here = self._phase_of(max(0, position - 1))  # of the last batch handed out
        if phase != here:
            raise ValueError(
                f"the position is batch {position} in phase {phase}, but here that batch belongs "
                f"to phase {here}; resume with the phases the run began with."
            )
        self._position = position
        self._enter(phase)
        self._batches.set_state(state["batches"])

    def close(self) -> None:
        """Stops reading ahead; the next batch starts it again."""
        self._batches.close()

    def _phase_of(self, position: int) -> int:
        return sum(position >= start for start in self._starts) - 1

    def _enter(self, phase: int) -> None:
        if phase != self._phase:
            self._earlier.update(self._batches.counts())
            self._batches.close()
            self._phase, self._batches = phase, self._open_phase(phase)
