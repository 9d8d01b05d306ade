"""Full batches for a device: their size is found by doubling, and lanes fill them together."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from classifier.engines.engine import Engine, check_batch

# A doubled batch must be this much faster, or the smaller one is taken.
PAYS = 1.05
MOST_IMAGES = 1024
CALLS = 3
# How long a batch that is not full waits for more images while the device has nothing to do.
PATIENCE_SECONDS = 0.005
# Batches that lanes hold for each batch of the device: one is computed while the next is decoded.
AHEAD = 2
MOST_LANES = 64


@dataclass(frozen=True)
class BatchTrial:
    """The measurement of one batch size.

    Attributes:
      batch_size: images per call.
      images_per_second: of the fastest of `CALLS` calls; 0 if the memory did not suffice.
    """

    batch_size: int
    images_per_second: float


def fastest_batch(
    make: Callable[[int], Engine],
    image_size: tuple[int, int],
    first: int,
    out_of_memory: tuple[type[BaseException], ...] = (MemoryError,),
    now: Callable[[], float] = time.perf_counter,
) -> tuple[Engine, list[BatchTrial]]:
    """Doubles the batch until that pays no longer.

    Args:
      make: makes an engine for a batch size.
      image_size: (height, width) in pixels.
      first: the smallest batch size.
      out_of_memory: what `make` and the engine raise when memory does not suffice.
      now: a clock, in seconds.

    Returns:
      (the engine of the best batch size, all trials).

    Raises:
      MemoryError: or another of `out_of_memory`, when not even the first batch fits.
    """
    best, trials, size = None, list[BatchTrial](), first
    while size <= max(first, MOST_IMAGES):
        try:
            engine = make(size)
            rate = _rate(engine, image_size, now)
        except out_of_memory:
            if best is None:
                raise
            trials.append(BatchTrial(size, 0.0))
            break
        gain = rate / trials[-1].images_per_second if trials else PAYS
        trials.append(BatchTrial(size, round(rate, 1)))
        if gain < PAYS:
            break
        best, size = engine, 2 * size
    assert best is not None
    return best, trials


def _rate(engine: Engine, image_size: tuple[int, int], now: Callable[[], float]) -> float:
    batch = np.zeros((engine.batch_size, *image_size, 3), np.uint8)
    engine(batch)  # The first call allocates, and tries algorithms.
    seconds = []
    for _ in range(CALLS):
        started = now()
        engine(batch)
        seconds.append(now() - started)
    return engine.batch_size / max(min(seconds), 1e-9)


class DeviceQueue:
    """An engine for lanes before a device: it gathers their small batches into full ones.

    A lane waits in its call while the device computes, and costs nothing meanwhile. So there are
    more lanes than cores: some wait, and the others decode for the next batch. Two threads serve
    the device in turn: one gathers while the other computes.

    Args:
      engine: of the device; its batch size is a multiple of `batch_size`.
      batch_size: images per call of a lane.
      trials: how the device's batch size was found.
    """

    def __init__(self, engine: Engine, batch_size: int, trials: list[BatchTrial]) -> None:
        self.batch_size, self.device_batch = batch_size, engine.batch_size
        self.feature_shape, self.numerics = engine.feature_shape, engine.numerics
        self.trials = trials
        self._server = _Server(engine, batch_size)
        self._finalizer = weakref.finalize(self, self._server.stop)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        check_batch(batch, (self.batch_size, *batch.shape[1:3], 3))
        return self._server.submit(batch).result()

    @property
    def totals(self) -> Mapping[str, float]:
        """What the device did so far: seconds of calls, images in them, places for images."""
        return self._server.totals()

    def lanes(self, cores: int) -> int:
        """Returns how many lanes keep the device's batches full.

        Args:
          cores: that this process may use; so many lanes at least.
        """
        needed = -(-AHEAD * self.device_batch // self.batch_size)
        return max(cores, min(MOST_LANES, needed))


class _Server:
    """Serves a device in two threads, which end when the queue is no longer needed."""

    def __init__(self, engine: Engine, batch_size: int) -> None:
        self._engine, self._size = engine, batch_size
        self._most = engine.batch_size // batch_size
        self._waiting: queue.SimpleQueue[tuple[np.ndarray, Future] | None] = queue.SimpleQueue()
        self._gathering, self._device = threading.Lock(), threading.Lock()
        self._seconds, self._images, self._places = 0.0, 0, 0
        for number in range(2):
            threading.Thread(target=self._serve, daemon=True, name=f"device-{number}").start()

    def submit(self, batch: np.ndarray) -> Future:
        future: Future = Future()
        self._waiting.put((batch, future))
        return future

    def stop(self) -> None:
        for _ in range(2):
            self._waiting.put(None)

    def totals(self) -> Mapping[str, float]:
        return {
            "device_seconds": self._seconds,
            "device_images": self._images,
            "device_places": self._places,
        }

    def _serve(self) -> None:
        while True:
            with self._gathering:
                parts, goes_on = self._gather()
            if parts:
                self._compute(parts)
            if not goes_on:
                return

    def _gather(self) -> tuple[list[tuple[np.ndarray, Future]], bool]:
        """Returns the parts of the next batch, and whether there may be more after it."""
        first = self._waiting.get()
        if first is None:
            return [], False
        parts = [first]
        while len(parts) < self._most:
            try:
                part = self._waiting.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                # While the device is busy, waiting costs nothing.
                if not self._device.locked():
                    break
                continue
            if part is None:
                return parts, False
            parts.append(part)
        return parts, True

    def _compute(self, parts: list[tuple[np.ndarray, Future]]) -> None:
        try:
            batch = np.zeros((self._engine.batch_size, *parts[0][0].shape[1:]), np.uint8)
            for place, (part, _) in enumerate(parts):
                batch[place * self._size : (place + 1) * self._size] = part
            with self._device:
                started = time.perf_counter()
                features = self._engine(batch)
                self._seconds += time.perf_counter() - started
                self._images += len(parts) * self._size
                self._places += len(batch)
            for place, (_, future) in enumerate(parts):
                future.set_result(features[place * self._size : (place + 1) * self._size])
        # The lane that asked for the features raises it.
        except BaseException as error:
            for _, future in parts:
                if not future.done():
                    future.set_exception(error)


def lanes_for(engine: Engine, lanes: int) -> int:
    """Returns how many lanes an engine needs: `lanes`, or more to fill a device's batches."""
    return engine.lanes(lanes) if isinstance(engine, DeviceQueue) else lanes


def device_totals(engine: Engine) -> Mapping[str, float]:
    """Returns what an engine's device did so far; {} for an engine without one."""
    return engine.totals if isinstance(engine, DeviceQueue) else {}
