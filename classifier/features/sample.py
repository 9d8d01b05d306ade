"""An even sample of a stream of rows, by their content: the same rows whatever their order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Of log-probabilities 400,000 rows of 10 classes, 4,000 of 1,000: plenty for one temperature, and
# done in a second.
SAMPLE_BYTES = 1 << 24


def content_numbers(content_hashes: Iterable[str]) -> np.ndarray:
    """Returns uint32 (n,): the last 8 hex digits, which no carve goes by, so either side is even.

    Example:
      >>> content_numbers(["00ff000000ff"])
      array([255], dtype=uint32)
    """
    return np.array([int(value[-8:], 16) for value in content_hashes], np.uint32)


class ContentSample:
    """All rows while they fit a budget, then an even sample of them.

    Args:
      budget: bytes that the rows may take.
    """

    def __init__(self, budget: int = SAMPLE_BYTES) -> None:
        self._budget, self._bound = budget, 1 << 32
        self._kept: list[tuple[np.ndarray, ...]] = []

    def add(self, content: np.ndarray, *columns: np.ndarray) -> None:
        """Takes in rows.

        Args:
          content: uint32 (n,) of `content_numbers`.
          columns: (n, ...) arrays, each time as many.
        """
        below = content < self._bound
        self._kept.append((content[below], *(column[below] for column in columns)))
        while sum(kept[1].nbytes for kept in self._kept) > self._budget and self._bound > 1:
            # Half of what is there leaves, and half of what comes will: always an even sample.
            self._bound //= 2
            halves = [kept[0] < self._bound for kept in self._kept]
            self._kept = [
                tuple(column[half] for column in kept)
                for kept, half in zip(self._kept, halves, strict=True)
            ]

    def columns(self) -> tuple[np.ndarray, ...]:
        """Returns what was kept of each column, in the order it came; nothing before a row came."""
        return tuple(map(np.concatenate, zip(*self._kept, strict=True)))[1:]
