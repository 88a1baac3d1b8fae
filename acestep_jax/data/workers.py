"""Songs done one after another, or by several processes, with the outcomes in order."""

import collections
import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, work(item)) in the order of the items.

    Args:
      work: picklable where there are workers.
      items: a few are taken ahead, so that they need not all be in memory.
      workers: processes; 0 works here.
    """
    if not workers:
        for item in items:
            yield item, work(item)
        return
    context = multiprocessing.get_context("spawn")  # a forked JAX deadlocks
    executor = concurrent.futures.ProcessPoolExecutor
    with executor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        pending: collections.deque = collections.deque()
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) > 2 * workers:
                item, future = pending.popleft()
                yield item, future.result()
        for item, future in pending:
            yield item, future.result()


def _end_with_parent() -> None:
    """Lets a worker end when its parent is killed, instead of waiting for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
