"""Nearest neighbours by cosine of many rows: each row looks through a few cells of alike rows.

The number of all products grows with the square of the number of rows. Here rows are sorted into
the cells of k-means on the sphere, and each row is compared with the rows of the cells whose
centres are nearest to it, as in an inverted file (Sivic and Zisserman, "Video Google", 2003; Jegou,
Douze and Schmid, "Product quantization for nearest neighbor search", 2011). A neighbour in another
cell is missed. So some rows are drawn and their neighbours are found exactly: half of them decide
how many cells are looked through, the other half measures which share of neighbours this finds.

With 2 sqrt(n) cells, time grows with n ** 1.5. Features in the order of the cells lie in a
temporary file; in memory are a few blocks of them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifier.auditing.neighbours import Nearest, Units
from classifier.auditing.rows import Vectors

CELLS_PER_ROOT = 2
# Rows that train each centre, and steps of the training. More of both hardly move the recall.
TRAINING_ROWS, STEPS = 50, 5
DRAWN = 1000
# The share of nearest neighbours to find, and the cells that a row looks through for it.
WANTED, LEAST_CELLS, MOST_CELLS = 0.98, 8, 64
BLOCK = 4096
LOOKING = 16_384


@dataclass(frozen=True)
class Recall:
    """How well neighbours were found.

    Attributes:
      cells: of alike rows.
      probed: of the cells, by each row.
      drawn: rows whose neighbours were found exactly to measure the recall.
      nearest: the share of them whose nearest neighbour was found.
      all: the share of all their neighbours that were found.
    """

    cells: int
    probed: int
    drawn: int
    nearest: float
    all: float


@dataclass(frozen=True)
class Cells:
    """Rows in the order of their cells.

    Attributes:
      centres: float32 (c, d), of length 1.
      order: int64 (n,), numbers of the rows, cell by cell.
      edges: int64 (c + 1,), places in `order` where cells begin.
    """

    centres: np.ndarray
    order: np.ndarray
    edges: np.ndarray

    def ranks(self, units: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Returns int (m,): how many centres are nearer to each row than that of a given cell."""
        near = units @ self.centres.T
        return (near > near[np.arange(len(units)), cells][:, None]).sum(axis=1)

    def visits(self, units: np.ndarray, probed: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields cells, each with the places in `units` of the rows that look through it."""
        near = units @ self.centres.T
        chosen = np.argpartition(near, -probed, axis=1)[:, -probed:].ravel()
        order = np.argsort(chosen, kind="stable")
        cells, starts = np.unique(chosen[order], return_index=True)
        for cell, places in zip(cells, np.split(order, starts[1:]), strict=True):
            yield int(cell), places // probed


def nearest_in_cells(units: Units, count: int, most: int) -> tuple[Nearest, Recall]:
    """Finds nearest other rows of each row, most of them; see the module.

    Args:
      units: of the rows.
      count: of all rows, at least 2.
      most: neighbours per row.
    """
    random = np.random.default_rng(0)
    cells = cells_of(units, count, random)
    drawn = random.choice(count, min(DRAWN, count // 2 * 2), replace=False)
    exact = exact_neighbours(units, count, drawn, most)
    cell_of = np.empty(count, np.int64)
    cell_of[cells.order] = np.repeat(np.arange(len(cells.centres)), np.diff(cells.edges))
    half = len(drawn) // 2
    ranks = cells.ranks(units(drawn[:half]), cell_of[exact.row[:half, 0]])
    needed = int(np.quantile(ranks, WANTED, method="inverted_cdf")) + 1
    probed = min(max(needed, LEAST_CELLS), MOST_CELLS, len(cells.centres))
    found = look_through(units, cells, probed, most)
    judged, known = drawn[half:], exact.row[half:]
    is_found = (known[:, :, None] == found.row[judged][:, None, :]).any(axis=2)
    is_known = known >= 0
    recall = Recall(
        cells=len(cells.centres),
        probed=probed,
        drawn=len(judged),
        nearest=float(is_found[:, 0].mean()),
        all=float(is_found[is_known].mean()),
    )
    return found, recall


def cells_of(units: Units, count: int, random: np.random.Generator) -> Cells:
    """Sorts rows into cells: their centres are those of k-means on a part of the rows."""
    number = min(count, round(CELLS_PER_ROOT * math.sqrt(count)))
    some = random.choice(count, min(count, TRAINING_ROWS * number), replace=False)
    training = units(np.sort(some))
    centres = training[random.choice(len(training), number, replace=False)]
    for _ in range(STEPS):
        centres = _moved(centres, training)
    blocks = (slice(start, start + BLOCK) for start in range(0, count, BLOCK))
    cell_of = np.concatenate([_cells(units(block), centres) for block in blocks])
    order = np.argsort(cell_of, kind="stable")
    return Cells(centres, order, np.searchsorted(cell_of[order], np.arange(number + 1)))


def _cells(units: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns int64 (m,): the cell of each row, block by block."""
    starts = range(0, len(units), BLOCK)
    return np.concatenate(
        [(units[start : start + BLOCK] @ centres.T).argmax(axis=1) for start in starts]
    )


def _moved(centres: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Returns the centres after a step of k-means; one without rows stays where it is."""
    from scipy.sparse import csr_matrix

    rows = np.arange(len(training) + 1)
    ones = np.ones(len(training), np.float32)
    shape = (len(training), len(centres))
    sums = csr_matrix((ones, _cells(training, centres), rows), shape=shape).T @ training
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    moved: np.ndarray = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    return moved


def exact_neighbours(units: Units, count: int, drawn: np.ndarray, most: int) -> Nearest:
    """Returns the neighbours of a few rows among all."""
    own, found = units(drawn), Nearest(len(drawn), most)
    looking = np.arange(len(drawn))
    for start in range(0, count, BLOCK):
        others = np.arange(start, min(start + BLOCK, count))
        cosines = own @ units(slice(start, start + BLOCK)).T
        _leave_out_itself(cosines, drawn, others)
        found.meet(looking, cosines, others)
    found.forget_none()
    return found


def look_through(units: Units, cells: Cells, probed: int, most: int) -> Nearest:
    """Finds the nearest rows of each row in the cells that it looks through."""
    order, count = cells.order, len(cells.order)
    found = Nearest(count, most)
    with tempfile.TemporaryDirectory(prefix="hoarfrost-audit-") as folder:
        path = Path(folder) / "sorted"
        with path.open("wb") as file:
            for start in range(0, count, BLOCK):
                file.write(units(order[start : start + BLOCK]).tobytes())
        in_order = Vectors(path, (count, cells.centres.shape[1]))
        for start in range(0, count, LOOKING):
            # Rows side by side are of few cells, so that they look through the same ones.
            looking, own = order[start : start + LOOKING], in_order[slice(start, start + LOOKING)]
            for cell, places in cells.visits(own, probed):
                for first in range(cells.edges[cell], cells.edges[cell + 1], BLOCK):
                    part = slice(first, min(first + BLOCK, cells.edges[cell + 1]))
                    cosines = own[places] @ in_order[part].T
                    _leave_out_itself(cosines, start + places, np.arange(part.start, part.stop))
                    found.meet(looking[places], cosines, order[part])
    found.forget_none()
    return found


def _leave_out_itself(cosines: np.ndarray, looking: np.ndarray, others: np.ndarray) -> None:
    """Sets the cosines of rows with themselves to -2; `others` are consecutive numbers."""
    itself = np.flatnonzero((looking >= others[0]) & (looking <= others[-1]))
    cosines[itself, looking[itself] - others[0]] = -2
