"""Measures where the lanes' time goes: what they do, and what they wait for.

A lane decodes, infers or waits. It waits for the thread that feeds it: because that reads bytes
(``read``), writes rows (``write``), or has no more images (``idle``). So each moment of each lane
has one state, and the states add up to lanes times seconds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
STATES = ("read", "decode", "infer", "write", "idle")


class Laps:
    """Measures the steps of one thread, in seconds.

    Args:
      now: a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._last = now, now()
        self.seconds: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """Ends a step, which takes the time since the last one ended."""
        now = self._now()
        self.seconds[step] = round(now - self._last, 3)
        self._last = now


class LaneClock:
    """The clock of one process's lanes, which the chunks under way share.

    The time of a waiting lane is divided among these chunks.

    Args:
      lanes: number of threads that decode and infer.
      now: a monotonic clock, in seconds.
      totals: returns what this process has counted so far, such as repeated requests; the record
        of each chunk has what was added since the record before it.
    """

    def __init__(
        self,
        lanes: int,
        now: Callable[[], float] = time.monotonic,
        totals: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.lanes = lanes
        self._totals, self._booked = totals, dict(totals())
        self._now, self._last = now, now()
        # Add it to `now` for seconds since the epoch, so that dates agree with booked times.
        self._epoch = time.time() - self._last
        self._lock = threading.Lock()
        self._chunks: list[ChunkClock] = []

    @contextmanager
    def chunk(self) -> Iterator[ChunkClock]:
        """Yields the clock of one chunk, which is under way until `ChunkClock.record`."""
        with self._moment() as date:
            chunk = ChunkClock(self, date)
            self._chunks.append(chunk)
        try:
            yield chunk
        finally:
            with self._moment():
                self._end(chunk)

    def _end(self, chunk: ChunkClock) -> None:
        if chunk in self._chunks:
            self._chunks.remove(chunk)

    def _added(self) -> dict[str, float]:
        """Returns the growth of the totals since the last call; the lock is held."""
        before, self._booked = self._booked, dict(self._totals())
        return {name: round(now - before.get(name, 0), 6) for name, now in self._booked.items()}

    def date(self) -> float:
        """Returns now, in seconds since the epoch."""
        return self._epoch + self._now()

    @contextmanager
    def _moment(self) -> Iterator[float]:
        """Books the time since the last moment; changes of state inside count from now on.

        Yields:
          Now, in seconds since the epoch.
        """
        with self._lock:
            now = self._now()
            elapsed, self._last = now - self._last, now
            waiting = self.lanes - sum(chunk.working.total() for chunk in self._chunks)
            for chunk in self._chunks:
                for state, lanes in chunk.working.items():
                    chunk.seconds[state] += lanes * elapsed
                chunk.seconds[chunk.reason] += max(0, waiting) * elapsed / len(self._chunks)
            yield self._epoch + now


class ChunkClock:
    """One chunk's part of a `LaneClock`.

    Attributes:
      seconds: lane-seconds by state.
      working: number of lanes that are in each working state now.
      reason: what a waiting lane of this chunk waits for now.
    """

    def __init__(self, clock: LaneClock, started: float) -> None:
        self.seconds = dict.fromkeys(STATES, 0.0)
        self.working: Counter[str] = Counter()
        self.reason = "idle"
        self._clock = clock
        self._started, self._first = started, 0.0
        self._images, self._megapixels = 0, 0.0

    @contextmanager
    def works(self, state: str) -> Iterator[None]:
        """Books the calling lane under ``decode`` or ``infer`` while the context lasts."""
        with self._clock._moment():
            self.working[state] += 1
        try:
            yield
        finally:
            with self._clock._moment():
                self.working[state] -= 1

    @contextmanager
    def feeds(self, state: str) -> Iterator[None]:
        """Books waiting lanes under ``read`` or ``write`` while the context lasts."""
        with self._clock._moment():
            before, self.reason = self.reason, state
        try:
            yield
        finally:
            with self._clock._moment():
                self.reason = before

    def reading(self, items: Iterable[T]) -> Iterator[T]:
        """Yields `items`, and books the time to fetch each one under ``read``."""
        iterator, end = iter(items), object()
        while True:
            with self.feeds("read"):
                item: Any = next(iterator, end)
            if item is end:
                return
            yield item

    def passed(self, images: Sequence[Mapping[str, Any]]) -> None:
        """Adds images that are done, with their width and height in pixels."""
        if not self._first:
            self._first = self._clock.date()
        self._images += len(images)
        self._megapixels += sum(image["width"] * image["height"] for image in images) / 1e6

    def record(self, worker: str) -> dict[str, Any]:
        """Ends the chunk, and returns what its marker keeps, JSON-ready.

        Args:
          worker: name of the process.

        Returns:
          worker and its lanes; started, first (image done) and finished, in seconds since the
          epoch; lane_seconds by state; images decoded, and their megapixels; the growth of the
          process's totals.
        """
        with self._clock._moment() as finished:
            # Time booked after this record would be lost.
            self._clock._end(self)
            added = self._clock._added()
        return {
            "worker": worker,
            "lanes": self._clock.lanes,
            "started": round(self._started, 6),
            "first": round(self._first, 6),
            "finished": round(finished, 6),
            "lane_seconds": {state: round(spent, 6) for state, spent in self.seconds.items()},
            "images": self._images,
            "megapixels": round(self._megapixels, 3),
            **added,
        }
