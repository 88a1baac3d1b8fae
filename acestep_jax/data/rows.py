"""Batches whose rows are made on the spot, each from the seed and its number alone."""

import abc
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np

BatchT = TypeVar("BatchT")


class RowBatches(abc.ABC, Generic[BatchT]):
    """An endless iterator over batches of numbered rows; a subclass makes a row.

    Batch n holds the rows from n times the batch's size on, so that it is the same however many
    processes share it.
    """

    def __init__(
        self, kind: type[BatchT], batch_size: int, process: tuple[int, int] = (0, 1)
    ) -> None:
        """Starts at the first row.

        Args:
          kind: the dataclass of a batch, with the fields of a row.
          batch_size: rows over all processes.
          process: index and count.

        Raises:
          ValueError: if the processes cannot share a batch.
        """
        if batch_size % process[1]:
            raise ValueError(f"{batch_size} rows cannot be shared by {process[1]} processes.")
        self._kind, self._size, self._process = kind, batch_size, process
        self._position = 0

    @abc.abstractmethod
    def row(self, number: int) -> Mapping[str, np.ndarray]:
        """Makes one row: the fields of a batch without B."""

    def __iter__(self) -> "RowBatches[BatchT]":
        return self

    def __next__(self) -> BatchT:
        index, count = self._process
        size = self._size // count
        first = self._position * self._size + index * size
        rows = [self.row(number) for number in range(first, first + size)]
        self._position += 1
        return self._kind(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})

    def get_state(self) -> dict[str, Any]:
        """Gives the position: batches handed out."""
        return {"position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to a position."""
        self._position = int(state["position"])
