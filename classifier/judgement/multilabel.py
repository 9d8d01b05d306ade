"""Figures of a multi-label head, which answers yes or no for each class."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from classifier.features.sample import ContentSample
from classifier.heads.stacked.objective import Objective
from classifier.judgement.classes import class_figures


@dataclass
class MultiLabelScores:
    """Sums over evaluated rows.

    Attributes:
      classes: names, in the head's order.
      rows: number of evaluated rows.
      counts: int64 (3, classes): hits, predicted positives, actual positives.
      loss_sum: of each row's mean cross entropy over the classes, in nats.
      hit_sum: of each row's share of classes that are predicted correctly.
      unknown: label that the head was not trained on -> its rows.
      unlabelled: rows without a label.
      sample: logits and labels of the rows, or of a sample within bounded memory.
    """

    classes: tuple[str, ...]
    rows: int = 0
    counts: np.ndarray = field(init=False)
    loss_sum: float = 0.0
    hit_sum: float = 0.0
    unknown: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0
    sample: ContentSample = field(default_factory=ContentSample)

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, len(self.classes)), np.int64)

    def update(self, logits: np.ndarray, labels: np.ndarray, content: np.ndarray) -> None:
        """Adds rows.

        Args:
          logits: float (n, classes).
          labels: uint8 (n, classes) of 0 and 1.
          content: uint32 (n,) of `classifier.features.sample.content_numbers`.
        """
        self.sample.add(content, logits.astype(np.float32), labels)
        predicted, true = logits > 0, labels > 0
        self.counts += np.stack([(predicted & true).sum(0), predicted.sum(0), true.sum(0)])
        objective = Objective(len(self.classes), True)
        loss, hits = objective.measure(logits[:, :, None].astype(np.float32), labels)
        self.loss_sum += float(loss[0])
        self.hit_sum += float(hits[0])
        self.rows += len(labels)

    def to_record(self) -> dict[str, Any]:
        """Returns the figures as JSON values; a ratio without a divisor is None.

        ``accuracy`` is the share of (row, class) pairs that are predicted correctly at a
        probability of 0.5. ``macro_f1`` and ``mean_average_precision`` are means over the classes
        that occur, the second one among its ``average_precision_rows``.
        """
        hits, predicted, true = self.counts
        logits, labels = self.sample.columns()
        precision = [average_precision(logits[:, i], labels[:, i]) for i in range(len(true))]
        ranked = [value for value in precision if value is not None]
        per_class = class_figures(self.classes, hits, predicted, true)
        for figures, value in zip(per_class, precision, strict=True):
            figures["average_precision"] = value
        occurs = true > 0
        f1 = 2 * hits[occurs] / (predicted + true)[occurs]
        return {
            "rows": self.rows,
            "loss": self.loss_sum / self.rows,
            "accuracy": self.hit_sum / self.rows,
            "macro_f1": float(f1.mean()),
            "mean_average_precision": sum(ranked) / len(ranked) if ranked else None,
            "average_precision_rows": len(labels),
            "per_class": per_class,
            "unknown_labels": dict(sorted(self.unknown.items())),
            "unlabelled": self.unlabelled,
        }


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns the area under the steps of precision over recall; None without a positive row.

    Rows of equal score form one step, as in scikit-learn's `average_precision_score`.

    Args:
      scores: float (n,), higher for more probable rows.
      labels: (n,) of 0 and 1.

    Example:
      >>> average_precision(np.array([0.9, 0.8, 0.3]), np.array([1, 0, 1]))
      0.8333333333333333
    """
    if not labels.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = np.cumsum(labels[order], dtype=np.int64)[ends]
    return float((np.diff(found, prepend=0) * (found / (ends + 1))).sum() / found[-1])
