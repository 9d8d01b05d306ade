"""Measures precisions on images of the input, and chooses the fastest that is close enough."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from classifier.engines.batching import lanes_for
from classifier.engines.engine import Engine, relative_distances, run_padded
from featurestore.fields import Tap
from featurestore.taps import divided

# How close rows must be to float32's for `auto` to choose a precision.
MEDIAN_COSINE, LOWEST_COSINE = 0.9998, 0.999
# Beyond that factor from a bound, another sample would hardly change the verdict.
CLEAR = 2.0
# A small gain in speed is not worth the error.
WORTHWHILE = 1.05
# A fast base is timed several times, a slow one once.
ROUNDS, SECONDS = 3, 1.0


@dataclass(frozen=True)
class Closeness:
    """The distance of rows from float32's.

    Attributes:
      images: number of rows that were compared.
      cosine_median, cosine_minimum: over the rows.
      error_median: of the relative L2 distances.
    """

    images: int
    cosine_median: float
    cosine_minimum: float
    error_median: float

    @property
    def line(self) -> str:
        """The cosines in words, for the user."""
        return f"cosine {self.cosine_median:.5f}, lowest {self.cosine_minimum:.5f}"


@dataclass(frozen=True)
class Measured:
    """The measurement of one precision.

    Attributes:
      precision: its name.
      images_per_second: of the base alone, with all lanes busy.
      closeness: to float32; None for float32 itself.
    """

    precision: str
    images_per_second: float
    closeness: Closeness | None = None

    @property
    def is_close(self) -> bool:
        """Whether `auto` may choose it."""
        return self._used <= 1

    @property
    def is_clear(self) -> bool:
        """Whether it used at most half of the distance that `auto` allows, or at least twice it."""
        return not 1 / CLEAR < self._used < CLEAR

    @property
    def _used(self) -> float:
        """The largest distance from float32 in units of what `auto` allows."""
        close = self.closeness
        if close is None:
            return 0.0
        return max(
            (1 - close.cosine_median) / (1 - MEDIAN_COSINE),
            (1 - close.cosine_minimum) / (1 - LOWEST_COSINE),
        )

    @property
    def line(self) -> str:
        """The measurement in words, for the user."""
        text = f"{self.precision} {self.images_per_second:,.0f} images/s"
        return text + (f" ({self.closeness.line})" if self.closeness else "")

    def to_record(self) -> dict[str, Any]:
        """Returns the measurement as JSON values."""
        record = {"precision": self.precision, "images_per_second": self.images_per_second}
        return record | (dataclasses.asdict(self.closeness) if self.closeness else {})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Measured:
        """Makes a measurement from what `to_record` returned.

        Example:
          >>> measured = Measured("float16", 90.0, Closeness(64, 0.9999, 0.9995, 0.01))
          >>> Measured.from_record(measured.to_record()) == measured
          True
        """
        facts = dict(record)
        precision, rate = facts.pop("precision"), facts.pop("images_per_second")
        return cls(precision, rate, Closeness(**facts) if facts else None)


def closeness(rows: np.ndarray, truth: np.ndarray) -> Closeness:
    """Compares rows with float32's.

    Args:
      rows: float32 (n, *feature_shape), n from 1.
      truth: the same in float32 precision.

    Example:
      >>> closeness(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0]]))
      Closeness(images=1, cosine_median=1.0, cosine_minimum=1.0, error_median=0.5)
    """
    ours = rows.reshape(len(rows), -1).astype(np.float64)
    theirs = truth.reshape(len(truth), -1).astype(np.float64)
    lengths = [np.maximum(np.linalg.norm(array, axis=1), 1e-12) for array in (theirs, ours)]
    cosine = (ours * theirs).sum(axis=1) / lengths[0] / lengths[1]
    # Two rows of zeros agree.
    cosine[~ours.any(axis=1) & ~theirs.any(axis=1)] = 1.0
    # NaN counts as the largest distance: a comparison with NaN would pass.
    cosine = np.nan_to_num(cosine, nan=-1.0)
    error = np.nan_to_num(relative_distances(ours, theirs), nan=np.inf)
    return Closeness(len(rows), float(np.median(cosine)), float(cosine.min()),
                     float(np.median(error)))  # fmt: skip


def lowest(taps: Sequence[Tap], rows: np.ndarray, truth: np.ndarray) -> Closeness:
    """Compares rows with float32's tap by tap; the worst of each figure counts.

    Args:
      taps: of the base; none for a base with one output.
      rows: float32 (n, *feature_shape), n from 1.
      truth: the same in float32 precision.
    """
    pairs = zip(divided(taps, rows), divided(taps, truth), strict=True)
    return worst([closeness(ours, theirs) for ours, theirs in pairs])


def worst(found: Sequence[Closeness]) -> Closeness:
    """Returns the worst of each figure.

    Example:
      >>> worst([Closeness(8, 1.0, 0.9, 0.1), Closeness(8, 0.95, 0.94, 0.2)])
      Closeness(images=8, cosine_median=0.95, cosine_minimum=0.9, error_median=0.2)
    """
    return Closeness(
        found[0].images,
        min(each.cosine_median for each in found),
        min(each.cosine_minimum for each in found),
        max(each.error_median for each in found),
    )


def choose(measured: Sequence[Measured]) -> Measured:
    """Returns the fastest precision that is close to float32; float32 unless it is worthwhile.

    Args:
      measured: must include float32.
    """
    exact = next(each for each in measured if each.closeness is None)
    fit = [
        each
        for each in measured
        if each.is_close and each.images_per_second >= WORTHWHILE * exact.images_per_second
    ]
    return max(fit, key=lambda each: each.images_per_second, default=exact)


def measure(
    engines: Mapping[str, Engine], images: np.ndarray, lanes: int, taps: Sequence[Tap] = ()
) -> list[Measured]:
    """Times engines side by side, and compares their features.

    Args:
      engines: precision -> engine; the others are compared with ``float32``.
      images: uint8 (n, H, W, 3), n from 1.
      lanes: concurrent calls.
      taps: of the base; the worst of them counts.

    Returns:
      One measurement per precision.
    """
    rows = {name: features_of(engine, images, lanes) for name, engine in engines.items()}
    rates = throughput(engines, images, lanes)
    return [
        Measured(
            name,
            round(rates[name], 1),
            None if name == "float32" else lowest(taps, rows[name], rows["float32"]),
        )
        for name in engines
    ]


def features_of(engine: Engine, images: np.ndarray, lanes: int) -> np.ndarray:
    """Runs images through all lanes at once.

    Args:
      engine: of a fixed batch size.
      images: uint8 (n, H, W, 3), n from 1.
      lanes: concurrent calls.

    Returns:
      float32 (n, *feature_shape), in order.
    """
    size = engine.batch_size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    with ThreadPoolExecutor(lanes) as pool:
        return np.concatenate(list(pool.map(partial(run_padded, engine), batches)))


def throughput(engines: Mapping[str, Engine], images: np.ndarray, lanes: int) -> dict[str, float]:
    """Returns images/s per engine: the best of up to `ROUNDS` interleaved rounds.

    Args:
      engines: name -> engine, already warm.
      images: uint8 (n, H, W, 3), n from 1.
      lanes: concurrent calls; more for the queue of a device, as in an extraction.
    """
    best = dict.fromkeys(engines, 0.0)
    begun = time.perf_counter()
    callers = {name: lanes_for(engine, lanes) for name, engine in engines.items()}
    with ThreadPoolExecutor(max(callers.values())) as pool:
        for turn in range(ROUNDS):
            if turn and time.perf_counter() - begun > SECONDS:
                break
            for name, engine in engines.items():
                batch = np.resize(images, (engine.batch_size, *images.shape[1:]))
                started = time.perf_counter()
                list(pool.map(engine, [batch] * callers[name]))
                seconds = time.perf_counter() - started
                best[name] = max(best[name], callers[name] * engine.batch_size / seconds)
    return best
