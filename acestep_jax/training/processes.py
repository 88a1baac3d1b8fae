"""What the processes of a run tell each other outside compiled code; trivial with one process."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def agree(text: str) -> str:
    """Gives every process the text of the first one."""
    if jax.process_count() == 1:
        return text
    buffer = np.zeros(1024, np.uint8)
    data = np.frombuffer(text.encode()[:1024], np.uint8)
    buffer[: data.size] = data
    return (
        bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b"\0").decode(errors="replace")
    )


def gather(state: Any) -> list[str]:
    """Collects the iterator states of all processes as JSON texts."""
    text = json.dumps(state)
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([data.size]))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[: int(n)]).decode() for row, n in zip(rows, lengths.reshape(-1), strict=True)]


def own(states: list[str]) -> Any:
    """Picks this process's state of those `gather` collected; any will do if all are the same.

    Raises:
      ValueError: if other processes gathered them, and they differ.
    """
    if len(states) == jax.process_count():
        return json.loads(states[jax.process_index()])
    if len(set(states)) == 1:
        return json.loads(states[0])
    raise ValueError(
        f"its data was read by {len(states)} processes, each at a place of its own; "
        f"there are {jax.process_count()} now."
    )
