"""Exact nearest neighbours by cosine, in blocks: all products are made, few are held at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Returns float32 (m, d) of some rows, given by number: vectors of length 1.
Units = Callable[[slice | np.ndarray], np.ndarray]


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

    def meet(self, looking: np.ndarray, cosines: np.ndarray, others: np.ndarray) -> None:
        """Takes in products.

        Args:
          looking: int (m,), numbers of the rows that look.
          cosines: float32 (m, n); -2 where a row would meet itself.
          others: int (n,), numbers of the rows that are looked at.
        """
        most = self.row.shape[1]
        # After a few blocks hardly any row finds a nearer one, and a maximum is all that is needed.
        better = np.flatnonzero(cosines.max(axis=1) > self.cosine[looking, -1])
        if not len(better):
            return
        own, values, places = looking[better], *_largest(cosines[better], most)
        row = np.concatenate([self.row[own], others[places]], axis=1)
        cosine = np.concatenate([self.cosine[own], values], axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
        self.row[own] = np.take_along_axis(row, order, axis=1)
        self.cosine[own] = np.take_along_axis(cosine, order, axis=1)

    def forget_none(self) -> None:
        """Marks places that no row has taken."""
        self.row[self.cosine < -1.5] = -1


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


def nearest(units: Units, count: int, most: int, block: int = 4096) -> Nearest:
    """Finds the nearest other rows of each row, exactly.

    Args:
      units: of the rows.
      count: of all rows.
      most: neighbours per row.
      block: rows of one side of a product; memory is that of a few products.
    """
    result = Nearest(count, most)
    for start in range(0, count, block):
        looking = np.arange(start, min(start + block, count))
        own = units(slice(start, start + block))
        for other in range(start, count, block):
            others = np.arange(other, min(other + block, count))
            if other == start:
                cosines = own @ own.T
                np.fill_diagonal(cosines, -2)
            else:
                cosines = own @ units(slice(other, other + block)).T
                result.meet(others, cosines.T, looking)
            result.meet(looking, cosines, others)
    result.forget_none()
    return result
