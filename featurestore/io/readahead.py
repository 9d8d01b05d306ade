"""Runs tasks ahead of whoever takes their results, in order and in bounded number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
# Decoding is bound by memory beyond this many cores.
MOST_THREADS = 4
# Sources of a shuffled stream that are open at once. More mix better, each costs a part's metadata.
OPEN_AT_ONCE = 32


def cores() -> int:
    """Returns the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count() -> int:
    """Returns how many threads decode: one per core of this process, four at most."""
    return min(MOST_THREADS, cores())


def ordered_map(
    pool: Executor, function: Callable[[A], B], items: Iterable[A], depth: int
) -> Iterator[B]:
    """Maps in a pool with at most `depth` items under way, yielding results in order.

    Unlike `Executor.map` it takes an item only when there is room for it, so a stream of any length
    needs bounded memory.
    """
    pending: deque[Future[B]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


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
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hoarfrost-read")
    try:
        yield from ordered_map(pool, lambda task: task(), tasks, threads + 1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def interleaved(
    sources: Iterable[Iterator[T]], rng: np.random.Generator, at_once: int = OPEN_AT_ONCE
) -> Iterator[T]:
    """Yields the items of many iterators, each time from one drawn among the open ones.

    Args:
      sources: opened in their order, at most `at_once` at a time.
      rng: draws.
      at_once: how many are open.

    Example:
      >>> sorted(interleaved([iter("ab"), iter("c")], np.random.default_rng(0)))
      ['a', 'b', 'c']
    """
    waiting = iter(sources)
    opened = list(islice(waiting, at_once))
    while opened:
        number = int(rng.integers(len(opened)))
        try:
            yield next(opened[number])
        except StopIteration:
            # The order among the open ones means nothing: the last takes the empty place.
            opened[number] = opened[-1]
            opened.pop()
            opened += islice(waiting, 1)
