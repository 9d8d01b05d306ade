"""Exact nearest neighbours by cosine, in blocks: all products are made, few are held at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Nearest:
    """The nearest of some rows that each row has met so far.

    Args:
      rows: how many rows look for neighbours.
      most: neighbours that each keeps.

    Attributes:
      row: int64 (rows, most), numbers of neighbours, nearest first; -1 where there are fewer.
      cosine: float32 (rows, most), -2 where there are fewer.
    """

    def __init__(self, rows: int, most: int) -> None:
        self.row = np.full((rows, most), -1, np.int64)
        self.cosine = np.full((rows, most), -2, np.float32)

    def meet(self, first: int, cosines: np.ndarray, others: int) -> None:
        """Takes in products.

        Args:
          first: the first of m rows that look.
          cosines: float32 (m, n).
          others: the number of the first of n rows that are looked at.
        """
        most = self.row.shape[1]
        # After a few blocks hardly any row finds a nearer one, and a maximum is all that is needed.
        better = np.flatnonzero(cosines.max(axis=1) > self.cosine[first : first + len(cosines), -1])
        if not len(better):
            return
        own, values, places = first + better, *_largest(cosines[better], most)
        row = np.concatenate([self.row[own], places + others], axis=1)
        cosine = np.concatenate([self.cosine[own], values], axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
        self.row[own] = np.take_along_axis(row, order, axis=1)
        self.cosine[own] = np.take_along_axis(cosine, order, axis=1)


def _largest(cosines: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest values of each row and their places; overwrites them.

    A few passes of argmax take less time than a partition of each row.
    """
    rows, found, places = np.arange(len(cosines)), [], []
    for _ in range(min(most, cosines.shape[1])):
        best = cosines.argmax(axis=1)
        found.append(cosines[rows, best])
        places.append(best)
        cosines[rows, best] = -2
    return np.stack(found, axis=1), np.stack(places, axis=1)


def nearest(
    units: Callable[[slice], np.ndarray], count: int, most: int, block: int = 4096
) -> Nearest:
    """Finds the nearest other rows of each row, exactly.

    Args:
      units: returns float32 (m, d) of a slice of rows, of length 1.
      count: of all rows.
      most: neighbours per row.
      block: rows of one side of a product; memory is that of a few products.
    """
    result = Nearest(count, most)
    starts = range(0, count, block)
    for start in starts:
        own = units(slice(start, min(start + block, count)))
        for other in range(start, count, block):
            if other == start:
                cosines = own @ own.T
                np.fill_diagonal(cosines, -2)
            else:
                cosines = own @ units(slice(other, min(other + block, count))).T
                result.meet(other, cosines.T, start)
            result.meet(start, cosines, other)
    result.row[result.cosine < -1.5] = -1
    return result
