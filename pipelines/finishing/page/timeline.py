"""Folds the times of a run's chunks into curves and lanes of a fixed length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.watching.timing import STATES

BINS = 120
WORKING = ("decode", "infer")


@dataclass
class WorkerLane:
    """One worker process over the time of a run.

    Attributes:
      name: 8 hex digits.
      lanes: its threads that decode and infer.
      chunks: that it committed.
      images: in these chunks.
      started: of its first chunk, in seconds since the run's start.
      finished: of its last chunk.
      working: float64 (BINS,), seconds of its lanes that decode or infer, per bin.
      present: float64 (BINS,), seconds of its lanes in any state, per bin.
      lane_seconds: by state.
    """

    name: str
    lanes: int = 1
    chunks: int = 0
    images: int = 0
    started: float = np.inf
    finished: float = 0.0
    working: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    present: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    lane_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATES, 0.0))

    @property
    def busy(self) -> float:
        """Share of the lanes' time from the first chunk to the last in which they worked."""
        there = self.lanes * (self.finished - self.started)
        return sum(self.lane_seconds[state] for state in WORKING) / there if there > 0 else 0.0

    @property
    def images_per_second(self) -> float:
        """From its first chunk to its last."""
        there = self.finished - self.started
        return self.images / there if there > 0 else 0.0

    def runs(self) -> Iterator[tuple[float, float, float]]:
        """Yields (first bin, number of bins, share of the time at work) of stretches alike.

        Shares are rounded to quarters, so that a steady worker is one stretch.
        """
        share = np.divide(self.working, self.present, out=np.zeros(BINS), where=self.present > 0)
        level = np.where(self.present > 0, np.round(4 * np.clip(share, 0, 1)), -1)
        edges = [0, *(np.flatnonzero(np.diff(level)) + 1), BINS]
        for first, end in zip(edges[:-1], edges[1:], strict=True):
            if level[first] >= 0:
                yield float(first), float(end - first), float(level[first]) / 4


class Timeline:
    """The time of a run in `BINS` equal parts; takes any number of chunks in bounded memory.

    Args:
      started: of the run, in seconds since the epoch.
      seconds: that it took.

    Attributes:
      width: of a bin, in seconds.
      images: float64 (BINS,), images that were decoded in each bin.
      states: state -> float64 (BINS,), lane-seconds in each bin.
      workers: name -> lane.
    """

    def __init__(self, started: float, seconds: float) -> None:
        self.started, self.seconds = started, max(seconds, 1e-3)
        self.width = self.seconds / BINS
        self.images = np.zeros(BINS)
        self.states = {state: np.zeros(BINS) for state in STATES}
        self.workers: dict[str, WorkerLane] = {}

    def add(self, time: Mapping[str, Any]) -> None:
        """Adds a chunk, as if its work had been spread evenly over its time.

        Args:
          time: `ChunkClock.record` of the chunk.
        """
        begin, end = time["started"] - self.started, time["finished"] - self.started
        spent = {state: time["lane_seconds"].get(state, 0.0) for state in STATES}
        # Images appear from the first one on: before that, bytes were on their way.
        self._spread(self.images, max(begin, time["first"] - self.started), end, time["images"])
        for state, seconds in spent.items():
            self._spread(self.states[state], begin, end, seconds)
        worker = self.workers.setdefault(time["worker"], WorkerLane(time["worker"], time["lanes"]))
        worker.chunks += 1
        worker.images += time["images"]
        worker.started, worker.finished = min(worker.started, begin), max(worker.finished, end)
        self._spread(worker.working, begin, end, sum(spent[state] for state in WORKING))
        self._spread(worker.present, begin, end, sum(spent.values()))
        for state, seconds in spent.items():
            worker.lane_seconds[state] += seconds

    def _spread(self, bins: np.ndarray, begin: float, end: float, amount: float) -> None:
        """Adds an amount to the bins between two moments, in proportion to the overlap."""
        if not amount:
            return
        begin, end = (float(np.clip(moment / self.width, 0, BINS)) for moment in (begin, end))
        first, last = min(int(begin), BINS - 1), min(int(np.ceil(end)), BINS)
        if end - begin <= 1e-9 or last <= first + 1:
            bins[first] += amount
            return
        edges = np.clip(np.arange(first, last + 1), begin, end)
        bins[first:last] += amount * np.diff(edges) / (end - begin)

    @property
    def rates(self) -> np.ndarray:
        """float64 (BINS,), images per second in each bin."""
        return self.images / self.width

    def by_start(self) -> list[WorkerLane]:
        """Returns the workers in the order of their first chunk."""
        return sorted(self.workers.values(), key=lambda worker: (worker.started, worker.name))
