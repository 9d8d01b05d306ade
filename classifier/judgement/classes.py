"""Precision, recall and F1 of each class, and their order for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def class_figures(
    classes: Sequence[str], hits: np.ndarray, predicted: np.ndarray, support: np.ndarray
) -> list[dict[str, Any]]:
    """Computes the figures of each class as JSON values; a ratio without a divisor is None.

    Args:
      classes: k names.
      hits: int (k,) rows of the class that are predicted as the class.
      predicted: int (k,) rows that are predicted as the class.
      support: int (k,) rows of the class.

    Example:
      >>> class_figures(["cat"], np.array([3]), np.array([4]), np.array([6]))
      [{'class': 'cat', 'precision': 0.75, 'recall': 0.5, 'f1': 0.6, 'support': 6}]
    """
    return [
        {
            "class": name,
            "precision": _ratio(hits[i], predicted[i]),
            "recall": _ratio(hits[i], support[i]),
            "f1": _ratio(2 * hits[i], support[i] + predicted[i]),
            "support": int(support[i]),
        }
        for i, name in enumerate(classes)
    ]


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None


def weakest_first(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sorts the figures of classes by F1, and equal ones by rows; classes without rows come last.

    Args:
      per_class: figures with at least ``f1`` and ``support``.
    """

    def place(row: Mapping[str, Any]) -> tuple[bool, float, int]:
        return not row["support"], -1.0 if row["f1"] is None else row["f1"], -row["support"]

    return sorted(per_class, key=place)
