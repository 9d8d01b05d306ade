"""Finds doubtful labels: rows that a ridge fit without them gives to another class.

The fit is out of fold: the sums of five folds are made once, and each fold's rows are scored by the
solution without that fold. The penalty is the one with the most hits. Copies of one content are
always in one fold.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from classifier.auditing.rows import AuditRows
from classifier.features.order import Rows
from classifier.heads.ridge.passes import PenaltyErrors
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.solution import FoldStatistics, solve
from featurestore.labels.numbers import class_numbers

PENALTIES = (0.01, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Doubts:
    """How well the labels of rows agree with their features.

    Attributes:
      classes: of the labels, sorted.
      own: int64 (n,) class of each row; -1 for rows that have not exactly one label.
      suggested: int64 (n,) the best other class of each row.
      margin: float32 (n,) score of the own class above the best other one; NaN where `own` is -1.
      l2: the penalty; None if there was nothing to fit.
      note: why nothing was fitted, or "".
    """

    classes: tuple[str, ...]
    own: np.ndarray
    suggested: np.ndarray
    margin: np.ndarray
    l2: float | None = None
    note: str = ""

    @property
    def ranked(self) -> np.ndarray:
        """int64 (m,): the rows with a negative margin, the most doubtful one first."""
        order = np.argsort(self.margin, kind="stable")
        return order[self.margin[order] < 0]


def find_doubts(rows: AuditRows) -> Doubts:
    """Computes the margins of all rows with one label.

    Raises:
      UsageError: for features so large that the sums do not fit in memory.
    """
    single = [labels[0] if len(labels) == 1 else None for labels in rows.labels]
    classes = tuple(sorted({label for label in single if label is not None}))
    own = class_numbers(single, classes)
    none = np.full(len(rows), -1, np.int64), np.full(len(rows), np.nan, np.float32)
    if len(classes) < 2:
        note = "labels were not checked: rows with one label are of fewer than two classes"
        return Doubts(classes, own, *none, note=note)
    size = rows.vectors.shape[1]
    settings = RidgeSettings(size, size, len(classes), PENALTIES)
    settings.check_memory()
    content = np.array([zlib.crc32(value.encode()) for value in rows.content_hash], np.uint32)

    def blocks() -> Iterator[tuple[np.ndarray, Rows]]:
        for block in rows.blocks():
            numbers = block.start + np.flatnonzero(own[block] >= 0)
            if len(numbers):
                yield numbers, Rows(rows.vectors[numbers], own[numbers], content[numbers])

    statistics = FoldStatistics(settings)
    for _, some in blocks():
        statistics.update(some)
    solved, errors = solve(statistics), PenaltyErrors(settings)
    for _, some in blocks():
        errors.update(some, "train", solved)
    chosen = errors.choose()
    paths = [path.only(chosen) for path in solved.held_out]
    suggested, margin = none
    for numbers, some in blocks():
        folds = settings.fold_numbers(some)
        for fold in np.unique(folds):
            of = folds == fold
            scores = paths[fold].scores(some.features[of])[:, 0]
            suggested[numbers[of]], margin[numbers[of]] = margins(scores, some.labels[of])
    return Doubts(classes, own, suggested, margin, PENALTIES[chosen])


def margins(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 (n,) the best other class of each row, and float (n,) its margin.

    Args:
      scores: float (n, k), or (n, 1) of the second of two classes, between 0 and 1.
      labels: int (n,) own classes.

    Example:
      >>> margins(np.array([[0.75], [0.25]]), np.array([1, 1]))
      (array([0, 0]), array([ 0.5, -0.5]))
    """
    if scores.shape[1] == 1:
        scores = np.concatenate([1 - scores, scores], axis=1)
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    best = others.argmax(axis=1)
    return best, scores[rows, labels] - others[rows, best]
