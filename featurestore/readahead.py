"""Runs tasks ahead of whoever takes their results, in order and in bounded number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
# Decoding is bound by memory beyond this many cores.
MOST_THREADS = 4


def worker_count() -> int:
    """Returns how many threads decode: one per core of this process, four at most."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


def in_order(tasks: Iterable[Callable[[], T]], threads: int | None = None) -> Iterator[T]:
    """Yields the results of tasks in their order, while the next ones run in threads.

    Not more than one task per thread, and one that waits, is ahead of the consumer, and `tasks` is
    drawn from no faster. Leaving the loop waits for what is running and drops the rest.

    Args:
      tasks: without arguments; drawn in the caller's thread.
      threads: default `worker_count`.

    Raises:
      Exception: what a task raised, in its place.

    Example:
      >>> list(in_order([lambda: 1, lambda: 2], threads=2))
      [1, 2]
    """
    threads = threads or worker_count()
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hoarfrost-read")
    try:
        for task in tasks:
            pending.append(pool.submit(task))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
