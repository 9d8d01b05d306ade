"""How far images lie from their class and from the training rows.

Distances are root mean squares over the standardised values of a row, so they are in deviations of
the whole store and do not depend on the number of values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from classifier.auditing.leaks import outer_fence
from classifier.auditing.rows import AuditRows
from featurestore.labels.splits import split_of


@dataclass(frozen=True)
class Outliers:
    """The distances of rows.

    Attributes:
      to_class: float32 (n,) from the mean of the own class; NaN without exactly one label.
      to_training: float32 (n,) from the mean of the training rows, or of all rows without any.
      ratio: float32 (n,) the distance to the class, in medians of the class; rows without a class
        have the distance to the training rows, in medians of it.
      fence: rows of a larger ratio are outliers.
    """

    to_class: np.ndarray
    to_training: np.ndarray
    ratio: np.ndarray
    fence: float

    @property
    def ranked(self) -> np.ndarray:
        """int64 (m,): the outliers, the farthest one first."""
        order = np.argsort(-self.ratio, kind="stable")
        return order[self.ratio[order] > self.fence]


def find_outliers(rows: AuditRows, own: np.ndarray, classes: int) -> Outliers:
    """Computes the distances of all rows.

    Args:
      rows: of a store.
      own: int (n,) class of each row, -1 for none.
      classes: how many there are.
    """
    trains = np.array([split_of(split or "") == "train" for split in rows.split], bool)
    if not trains.any():
        trains[:] = True
    size = rows.vectors.shape[1]
    sums, training = np.zeros((classes + 1, size)), np.zeros(size)
    for block in rows.blocks():
        vectors = rows.scaled(block)
        np.add.at(sums, own[block], vectors)  # The last row takes those without a class.
        training += vectors[trains[block]].sum(axis=0, dtype=np.float64)
    counts = np.bincount(own[own >= 0], minlength=classes + 1)
    centres = sums / np.maximum(counts, 1)[:, None]
    training /= trains.sum()
    to_class = np.full(len(rows), np.nan, np.float32)
    to_training = np.empty(len(rows), np.float32)
    for block in rows.blocks():
        vectors = rows.scaled(block)
        to_training[block] = distance(vectors, training)
        to_class[block] = distance(vectors, centres[own[block]])
    to_class[own < 0] = np.nan
    ratio = to_training / max(float(np.median(to_training)), 1e-12)
    for number in range(classes):
        of = own == number
        ratio[of] = to_class[of] / max(float(np.median(to_class[of])), 1e-12)
    return Outliers(to_class, to_training, ratio, outer_fence(ratio))


def distance(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns float32 (n,): root mean square differences of rows (n, d) and centres.

    Example:
      >>> distance(np.array([[3.0, 4.0]]), np.zeros(2)).round(3)
      array([3.536], dtype=float32)
    """
    return np.sqrt(np.square(vectors - centres).mean(axis=1)).astype(np.float32)
