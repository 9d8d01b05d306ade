"""Cuts a stream of blocks of rows into batches, shuffled within a pool of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np


class Block(Protocol):
    """Rows in memory."""

    def __len__(self) -> int:
        """Returns the number of rows."""

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Returns some of the rows."""

    @classmethod
    def joined(cls, blocks: Sequence[Self]) -> Self:
        """Returns the rows of all blocks, in order."""


B = TypeVar("B", bound=Block)


def cut(
    blocks: Iterator[B], batch_size: int, pool_rows: int, rng: np.random.Generator | None
) -> Iterator[B]:
    """Cuts blocks of rows into batches, shuffled within a pool.

    Args:
      blocks: rows in the order they are read.
      batch_size: rows per batch; the last batch may have fewer, and no row is dropped.
      pool_rows: rows gathered before a shuffle; at least a batch.
      rng: shuffles; None keeps the order.
    """
    pool: list[B] = []
    held = 0
    for block in blocks:
        pool.append(block)
        held += len(block)
        if held < max(pool_rows, batch_size):
            continue
        # Half of the pool stays to mix with what comes next; whole batches leave.
        leave = max(batch_size, (held // 2) // batch_size * batch_size) if rng else held
        leave = leave // batch_size * batch_size
        rows = _mixed(pool, rng)
        # A copy, as a view would keep in memory what leaves.
        pool = [rows[np.arange(leave, held)]]
        held -= leave
        yield from _slices(rows, batch_size, leave)
        del rows
    if held:
        yield from _slices(_mixed(pool, rng), batch_size, held)


def _mixed(pool: list[B], rng: np.random.Generator | None) -> B:
    """Joins blocks and shuffles their rows; empties the pool, so rows are in memory only twice."""
    rows = type(pool[0]).joined(pool)
    pool.clear()
    return rows if rng is None else rows[rng.permutation(len(rows))]


def _slices(rows: B, batch_size: int, stop: int) -> Iterator[B]:
    for start in range(0, stop, batch_size):
        yield rows[start : min(start + batch_size, stop)]
