"""Compares an exported file with the run that it came from, on images."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from classifier.exporting.options import Limits
from classifier.exporting.served import Served
from featurestore.errors import RunFailed

BATCH_SIZE = 32
TOP = 5
# Two classes this close in the run's own probabilities are a tie: either may come first.
TIE = 1e-5
WORST = 5
_CALLS = {1: 9, BATCH_SIZE: 3}


@dataclass
class Comparison:
    """The agreement of a file with its run.

    Attributes:
      limits: that the file must keep.
      classes: names of the classes.
      images: number of images compared.
      largest_difference: of a probability.
      top_1_hits: images whose most probable class is the run's.
      top_5_share: sum over images of the share of the five most probable classes that both name.
      worst: (difference, name, the run's class, the file's class) of the images that differ most.
      seconds: batch size -> median seconds of a call.
    """

    limits: Limits
    classes: tuple[str, ...]
    images: int = 0
    largest_difference: float = 0.0
    top_1_hits: int = 0
    top_5_share: float = 0.0
    worst: list[tuple[float, str, str, str]] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)

    def update(self, names: list[str], ours: np.ndarray, truth: np.ndarray) -> None:
        """Adds images.

        Args:
          names: of the images.
          ours: float (n, classes) probabilities of the file.
          truth: float (n, classes) of the run.

        Raises:
          RunFailed: when the file gives another number of classes.
        """
        if ours.shape != truth.shape:
            raise RunFailed(
                f"the exported file gives {ours.shape} probabilities where the run gives "
                f"{truth.shape}: it belongs to another run"
            )
        # NaN would compare as no difference.
        differences = np.nan_to_num(np.abs(ours - truth), nan=np.inf).max(axis=1)
        rows, guesses = np.arange(len(truth)), ours.argmax(axis=1)
        self.images += len(truth)
        self.largest_difference = max(self.largest_difference, float(differences.max()))
        self.top_1_hits += int((truth[rows, guesses] >= truth.max(axis=1) - TIE).sum())
        most = min(TOP, len(self.classes))
        tops = (np.argsort(-values, axis=1, kind="stable")[:, :most] for values in (ours, truth))
        for one, other in zip(*tops, strict=True):
            self.top_5_share += len(np.intersect1d(one, other)) / most
        known, named = truth.argmax(axis=1), self.classes
        for row, name in enumerate(names):
            labels = named[known[row]], named[guesses[row]]
            entry = (float(differences[row]), name, *labels)
            (heapq.heappush if len(self.worst) < WORST else heapq.heappushpop)(self.worst, entry)

    @property
    def top_1(self) -> float:
        """Share of images with the run's most probable class."""
        return self.top_1_hits / self.images

    @property
    def top_5(self) -> float:
        """Mean share of the five most probable classes that both name."""
        return self.top_5_share / self.images

    @property
    def excess(self) -> str:
        """What is beyond the limits, or ""."""
        found = []
        if self.top_1 < self.limits.top_1:
            found.append(
                f"the most probable class agrees on {self.top_1:.2%} of {self.images} images, at "
                f"least {self.limits.top_1:.1%} is needed"
            )
        if not self.largest_difference <= self.limits.difference:
            found.append(
                f"a probability differs by {self.largest_difference:.2g}, at most "
                f"{self.limits.difference:g} is allowed"
            )
        return "; ".join(found)

    def to_record(self) -> dict[str, Any]:
        """Returns the comparison as JSON values."""
        return {
            "images": self.images,
            "largest_difference": self.largest_difference,
            "top_1_agreement": self.top_1,
            "top_5_agreement": self.top_5,
            "limits": vars(self.limits),
            "beyond_limits": self.excess,
            "latency_seconds": {str(size): value for size, value in self.seconds.items()},
            "worst": [
                {"image": name, "difference": difference, "run": ours, "file": theirs}
                for difference, name, ours, theirs in sorted(self.worst, reverse=True)
            ],
        }


def compare(
    comparison: Comparison,
    served: Served,
    truth_of: Callable[[np.ndarray], np.ndarray],
    images: Iterable[tuple[str, np.ndarray]],
) -> Comparison:
    """Runs images through the file and through the run, and times the file.

    Args:
      comparison: to add to.
      served: the file.
      truth_of: from uint8 (n, H, W, 3) to the run's probabilities (n, classes).
      images: (name, uint8 (H, W, 3)) pairs.

    Raises:
      RunFailed: when there are no images, or the file does not run.
    """
    batch, stream = None, iter(images)
    while pairs := list(itertools.islice(stream, BATCH_SIZE)):
        batch = np.stack([pixels for _, pixels in pairs])
        comparison.update([name for name, _ in pairs], served(batch), truth_of(batch))
    if batch is None:
        raise RunFailed("no image could be read, so the exported file was not compared")
    for size, calls in _CALLS.items():
        some = np.resize(batch, (size, *batch.shape[1:]))
        served(some)
        comparison.seconds[size] = statistics.median(served.timed(some)[1] for _ in range(calls))
    return comparison
