"""The three passes of a ridge fit over rows, each a sum that can be split over machines.

1. `FoldStatistics` sums what ridge regression needs, fold by fold. `solve` leaves each fold out by
   subtraction, and solves for all penalties.
2. `PenaltyErrors` counts how often each penalty is right, on held-out folds and on the validation
   rows. `PenaltyErrors.choose` takes the best penalty.
3. `ScaleLosses` sums the cross entropy for each of several factors: ridge scores lie around 0 to 1,
   and one factor turns them into logits. The factor with the least validation loss is taken; it
   changes no decision between classes.

Content hashes decide the folds, so that copies and views of an image are always in one fold.
"""

from __future__ import annotations

import operator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np

from classifier.features.dataset import SIDES
from classifier.features.order import Rows, flattened
from classifier.heads.head import Standard
from classifier.heads.probabilities import log_probabilities
from classifier.heads.ridge.statistics import RidgePath, Statistics, fit_path
from featurestore.errors import UsageError
from featurestore.io.cores import cores
from featurestore.units import size_text

# Rows of one matrix product: with less than some hundred, memory bounds its speed, not arithmetic.
BLOCK_BYTES = 32 << 20
MEMORY_LIMIT = 4 << 30
# From a flat distribution to a hard decision, in steps that hardly change the loss.
SCALES = np.geomspace(1, 1000, 32)


@dataclass(frozen=True)
class RidgeSettings:
    """What every worker of a ridge fit has to know.

    Attributes:
      features: d, of a flattened row.
      channels: in the last axis of a row.
      classes: how many there are; two classes share one target.
      l2: penalties, see `classifier.heads.ridge.statistics.fit_path`.
      folds: of the cross-validation that chooses the penalty; 0 lets the validation rows choose.
      class_weights: of each class; None for 1 each.
      standardise: whether features are scaled by the training rows' mean and deviation.
    """

    features: int
    channels: int
    classes: int
    l2: tuple[float, ...]
    folds: int = 5
    class_weights: tuple[float, ...] | None = None
    standardise: bool = True

    @property
    def targets(self) -> int:
        """k, the number of columns of the targets."""
        return 1 if self.classes == 2 else self.classes

    @property
    def block_rows(self) -> int:
        """Rows that make a matrix product worthwhile."""
        return max(256, min(8192, BLOCK_BYTES // (4 * self.features)))

    @property
    def held_bytes(self) -> int:
        """Memory that a fit holds: statistics of each fold and of all rows, and all solutions."""
        paths = self.features * len(self.l2) * self.targets * 12
        return (self.folds + 2) * self.features**2 * 8 + (self.folds + 1) * paths

    @property
    def solve_bytes(self) -> int:
        """More memory to solve one eigenproblem: LAPACK's workspace is two matrices."""
        return 5 * self.features**2 * 8

    @property
    def lanes(self) -> int:
        """Eigenproblems solved at once: one per core, as far as memory allows."""
        fitting = (MEMORY_LIMIT - self.held_bytes) // self.solve_bytes
        return max(1, min(cores(), self.folds + 1, fitting))

    def check_memory(self) -> None:
        """Refuses a fit that would need too much memory.

        Raises:
          UsageError: naming what to reduce.
        """
        needed = self.held_bytes + self.solve_bytes
        if needed > MEMORY_LIMIT:
            raise UsageError(
                f"--head ridge would need {size_text(needed)} for {self.features:,} features, "
                f"{self.classes} classes, {len(self.l2)} penalties and {self.folds} folds, and "
                f"{size_text(MEMORY_LIMIT)} are allowed; extract with --pooling avg, give fewer "
                "--l2 or --folds 0, or take --head logistic"
            )

    def targets_of(self, labels: np.ndarray) -> np.ndarray:
        """Returns float64 (n, k) targets: 1 for the row's class; of two classes, the second's."""
        return np.eye(self.classes)[labels][:, -self.targets :]

    def standard(self, statistics: Statistics) -> Standard | None:
        """Returns what features are standardised by, or None."""
        return statistics.standard(self.channels) if self.standardise else None

    def fold_numbers(self, rows: Rows) -> np.ndarray:
        """Returns int (n,): each row's fold."""
        return rows.content % max(self.folds, 1)


class FoldStatistics:
    """The statistics of training rows, fold by fold; adding is merging.

    Args:
      settings: of the fit.
    """

    def __init__(self, settings: RidgeSettings) -> None:
        self.settings = settings
        none = Statistics.empty(settings.features, settings.targets)
        self.folds = [none] * max(settings.folds, 1)

    def update(self, rows: Rows) -> None:
        """Takes in training rows."""
        settings = self.settings
        features, targets = flattened(rows.features), settings.targets_of(rows.labels)
        weights = None
        if settings.class_weights is not None:
            weights = np.asarray(settings.class_weights)[rows.labels]
        numbers = settings.fold_numbers(rows)
        for fold in np.unique(numbers):
            own = numbers == fold
            shares = None if weights is None else weights[own]
            self.folds[fold] += Statistics.of(features[own], targets[own], shares)

    def merge(self, other: FoldStatistics) -> None:
        """Takes in what another worker summed."""
        self.folds = [a + b for a, b in zip(self.folds, other.folds, strict=True)]


@dataclass(frozen=True)
class Solved:
    """Solutions for every penalty.

    Attributes:
      full: of all training rows.
      held_out: of the training rows without each fold; empty without folds.
      standard: what the features of `full` were standardised by.
    """

    full: RidgePath
    held_out: tuple[RidgePath, ...]
    standard: Standard | None


def solve(statistics: FoldStatistics) -> Solved:
    """Solves for every penalty, with all rows and without each fold."""
    from threadpoolctl import threadpool_limits

    settings = statistics.settings
    total = reduce(operator.add, statistics.folds)

    def path(part: Statistics) -> RidgePath:
        return fit_path(part, settings.l2, settings.standard(part))

    left_out = statistics.folds if settings.folds else ()
    # BLAS's own threads wait for each other by spinning, and on a busy machine that made an
    # eigendecomposition ten times slower. Whole problems side by side do not wait for each other.
    with threadpool_limits(1), ThreadPoolExecutor(settings.lanes) as lanes:
        full = lanes.submit(path, total)
        held_out = tuple(lanes.map(lambda fold: path(total - fold), left_out))
    return Solved(full.result(), held_out, settings.standard(total))


class SideSums:
    """Rows, hits and errors on both sides, for each of several candidates; adding is merging.

    Args:
      settings: of the fit.
      candidates: how many are compared.
    """

    def __init__(self, settings: RidgeSettings, candidates: int) -> None:
        self.settings = settings
        self.rows = dict.fromkeys(SIDES, 0)
        self.hits = {side: np.zeros(candidates, np.int64) for side in SIDES}
        self.errors = {side: np.zeros(candidates) for side in SIDES}

    def merge(self, other: Self) -> None:
        """Takes in what another worker summed."""
        for side in SIDES:
            self.rows[side] += other.rows[side]
            self.hits[side] += other.hits[side]
            self.errors[side] += other.errors[side]


class PenaltyErrors(SideSums):
    """Hits and squared errors of each penalty.

    Args:
      settings: of the fit.
    """

    def __init__(self, settings: RidgeSettings) -> None:
        super().__init__(settings, len(settings.l2))

    def update(self, rows: Rows, side: str, solved: Solved) -> None:
        """Takes in rows.

        Args:
          rows: of one side.
          side: ``train``, where rows are scored by the solution without their fold, or
            ``validation``.
          solved: all solutions.
        """
        features = flattened(rows.features)
        if side == "validation":
            self._add(solved.full, features, rows.labels, side)
            return
        numbers = self.settings.fold_numbers(rows)
        for fold, path in enumerate(solved.held_out):
            own = numbers == fold
            if own.any():
                self._add(path, features[own], rows.labels[own], side)

    def _add(self, path: RidgePath, features: np.ndarray, labels: np.ndarray, side: str) -> None:
        settings = self.settings
        step = max(1, BLOCK_BYTES // (4 * len(settings.l2) * settings.targets))
        for start in range(0, len(labels), step):
            own = labels[start : start + step]
            scores = path.scores(features[start : start + step])
            guesses = scores[:, :, 0] > 0.5 if settings.targets == 1 else scores.argmax(axis=2)
            self.hits[side] += (guesses == own[:, None]).sum(axis=0)
            scores -= settings.targets_of(own).astype(np.float32)[:, None, :]
            self.errors[side] += np.square(scores, out=scores).sum(axis=(0, 2), dtype=np.float64)
        self.rows[side] += len(labels)

    def choose(self) -> int:
        """Returns the number of the penalty with the most hits, and of these the least errors."""
        side = "train" if self.settings.folds else "validation"
        ranked = np.lexsort((self.errors[side], -self.hits[side]))
        return int(ranked[0])

    def to_record(self) -> dict[str, list[float]]:
        """Returns accuracy and squared error by penalty, fit for JSON."""
        record = {"l2": list(self.settings.l2)}
        for side, name in zip(SIDES, ("cv", "val"), strict=True):
            if self.rows[side]:
                record[f"{name}_accuracy"] = (self.hits[side] / self.rows[side]).tolist()
                record[f"{name}_squared_error"] = (self.errors[side] / self.rows[side]).tolist()
        return record


class ScaleLosses(SideSums):
    """Hits and cross entropies of the chosen solution for each factor of `SCALES`.

    Args:
      settings: of the fit.
    """

    def __init__(self, settings: RidgeSettings) -> None:
        super().__init__(settings, len(SCALES))

    def update(self, rows: Rows, side: str, path: RidgePath) -> None:
        """Takes in rows of a side, scored by a path with one penalty."""
        scores = path.scores(flattened(rows.features))[:, 0]
        if self.settings.targets == 1:
            scores = scores - 0.5
        own = np.arange(len(rows.labels)), rows.labels
        for number, scale in enumerate(SCALES):
            logs = log_probabilities(scores * scale)
            self.errors[side][number] -= logs[own].sum()
            self.hits[side][number] += (logs.argmax(axis=1) == rows.labels).sum()
        self.rows[side] += len(rows.labels)

    def best(self) -> tuple[float, dict[str, float]]:
        """Returns (the factor with the least validation loss, loss and accuracy with it)."""
        number = int(np.argmin(self.errors["validation"]))
        metrics = {}
        for side, prefix in zip(SIDES, ("", "val_"), strict=True):
            metrics[f"{prefix}loss"] = float(self.errors[side][number] / self.rows[side])
            metrics[f"{prefix}accuracy"] = float(self.hits[side][number] / self.rows[side])
        return float(SCALES[number]), metrics
