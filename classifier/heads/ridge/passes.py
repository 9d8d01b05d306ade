"""The three passes of a ridge fit over rows, each a sum that can be split over machines.

1. `solution.FoldStatistics` sums what ridge regression needs, fold by fold. `solution.solve` leaves
   each fold out by subtraction, and solves for all penalties.
2. `PenaltyErrors` counts how often each penalty is right, on held-out folds and on the validation
   rows. `PenaltyErrors.choose` takes the best penalty.
3. `ScaleLosses` sums the cross entropy for each of several factors: ridge scores lie around 0 to 1,
   and one factor turns them into logits. The factor with the least validation loss is taken; it
   changes no decision between classes.

Content hashes decide the folds, so that copies and views of an image are always in one fold.
"""

from __future__ import annotations

from copy import copy
from typing import Self

import numpy as np

from classifier.features.dataset import SIDES
from classifier.features.order import Rows, flattened
from classifier.heads.probabilities import log_probabilities
from classifier.heads.ridge.settings import BLOCK_BYTES, RidgeSettings
from classifier.heads.ridge.solution import Solved
from classifier.heads.ridge.statistics import RidgePath

# From a flat distribution to a hard decision, in steps that hardly change the loss.
SCALES = np.geomspace(1, 1000, 32)


class SideSums:
    """Rows, hits and errors on both sides, for each of several candidates; can be added.

    Args:
      settings: of the fit.
      candidates: how many are compared.
    """

    def __init__(self, settings: RidgeSettings, candidates: int) -> None:
        self.settings = settings
        self.rows = dict.fromkeys(SIDES, 0)
        self.hits = {side: np.zeros(candidates, np.int64) for side in SIDES}
        self.errors = {side: np.zeros(candidates) for side in SIDES}

    def __add__(self, other: Self) -> Self:
        """Returns the sums over the rows of both."""
        added = copy(self)
        added.rows = {side: self.rows[side] + other.rows[side] for side in SIDES}
        added.hits = {side: self.hits[side] + other.hits[side] for side in SIDES}
        added.errors = {side: self.errors[side] + other.errors[side] for side in SIDES}
        return added


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
