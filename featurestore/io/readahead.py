"""Runs tasks ahead of the consumer, in bounded number, and returns their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from featurestore.io.cores import cores

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
# Beyond this many cores, memory bandwidth limits decoding.
MOST_THREADS = 4
# Open sources of a shuffled stream. More mix better; each holds a part's metadata in memory.
OPEN_AT_ONCE = 32


def worker_count() -> int:
    """Returns the number of decoding threads: one per core of this process, four at most."""
    return min(MOST_THREADS, cores())


def ordered_map(
    pool: Executor, function: Callable[[A], B], items: Iterable[A], depth: int
) -> Iterator[B]:
    """Maps `items` in a pool, at most `depth` at a time, and yields the results in order.

    Unlike `Executor.map`, it draws an item only when there is room for it, so that a stream of any
    length needs bounded memory.
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
    """Yields the results of tasks in order while the next tasks run in threads.

    At most one task per thread, and one more that waits, is ahead of the consumer; `tasks` is drawn
    no faster. When you leave the loop, running tasks finish and the others are dropped.

    Args:
      tasks: callables without arguments; drawn in the caller's thread.
      threads: default `worker_count`.

    Raises:
      Exception: the one that a task raised, in that task's turn.

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
    """Yields the items of many iterators, each item from a random one of the open iterators.

    Args:
      sources: opened in order, at most `at_once` at a time.
      rng: draws the iterators.
      at_once: the largest number of open iterators.

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
            # The order of the open iterators means nothing: the last fills the gap.
            opened[number] = opened[-1]
            opened.pop()
            opened += islice(waiting, 1)
