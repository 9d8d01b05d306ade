"""What every worker of a ridge fit has to know, and the memory that a fit needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from classifier.features.order import Rows
from classifier.heads.head import Standard
from classifier.heads.ridge.statistics import Statistics
from featurestore.errors import UsageError
from featurestore.io.cores import cores
from featurestore.units import size_text

# Rows of one matrix product: with less than some hundred, memory bounds its speed, not arithmetic.
BLOCK_BYTES = 32 << 20
MEMORY_LIMIT = 4 << 30


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
    def sum_bytes(self) -> int:
        """What a worker sends of its statistics: of each fold, half a scatter and the cross."""
        return max(self.folds, 1) * self.features * (self.features // 2 + self.targets) * 8

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
                f"{size_text(MEMORY_LIMIT)} are allowed; extract fewer values "
                "(--pooling avg, or a smaller --image_size), give fewer --l2 or --folds 0, or take "
                "--head logistic"
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
