"""The classes that a head confuses most, from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_PAIRS = 10


def confused_pairs(
    confusion: np.ndarray, classes: Sequence[str], most: int = MOST_PAIRS
) -> list[dict[str, Any]]:
    """Lists the most frequent confusions.

    Args:
      confusion: int (k, k), rows are true classes and columns predicted ones.
      classes: k names.
      most: the largest number of pairs to list.

    Returns:
      ``class``, ``predicted``, ``rows`` and ``share`` (of the true class's rows) of each pair that
      occurs, by rows and then by share, largest first.

    Example:
      >>> confused_pairs(np.array([[8, 2], [0, 9]]), ["cat", "dog"])
      [{'class': 'cat', 'predicted': 'dog', 'rows': 2, 'share': 0.2}]
    """
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    support = confusion.sum(axis=1)
    share = errors / np.maximum(support, 1)[:, None]
    order = np.lexsort((-share.ravel(), -errors.ravel()))[:most]
    places = zip(*np.unravel_index(order, errors.shape), strict=True)
    return [
        {
            "class": classes[true],
            "predicted": classes[guess],
            "rows": int(errors[true, guess]),
            "share": float(share[true, guess]),
        }
        for true, guess in places
        if errors[true, guess]
    ]


def most_confused(confusion: np.ndarray, most: int) -> np.ndarray:
    """Chooses the classes to show of a matrix that is too large to read.

    Args:
      confusion: int (k, k), rows are true classes and columns predicted ones.
      most: the largest number of classes to choose.

    Returns:
      int64 (min(k, most),) class indices in ascending order: those in the most frequent confusions,
      then those with the most rows.
    """
    count = len(confusion)
    if count <= most:
        return np.arange(count)
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")
    order = order[errors.ravel()[order] > 0]
    pairs = np.stack(np.unravel_index(order, errors.shape), axis=1).ravel()
    by_rows = np.argsort(-confusion.sum(axis=1), kind="stable")
    chosen = dict.fromkeys(np.concatenate([pairs, by_rows]).tolist())
    return np.array(sorted(list(chosen)[:most]), np.int64)
