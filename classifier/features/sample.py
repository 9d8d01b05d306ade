"""An even sample of a stream of rows, by content: the same rows in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Log-probabilities of 400,000 rows of 10 classes, or of 4,000 rows of 1,000 classes: plenty for a
# temperature, fitted within a second.
SAMPLE_BYTES = 1 << 24


def content_numbers(content_hashes: Iterable[str]) -> np.ndarray:
    """Returns uint32 (n,): the last 8 hex digits of content hashes.

    Carves use the first digits, so that a sample by the last ones is even on either side.

    Example:
      >>> content_numbers(["00ff000000ff"])
      array([255], dtype=uint32)
    """
    return np.array([int(value[-8:], 16) for value in content_hashes], np.uint32)


class ContentSample:
    """All rows while they fit a budget, then an even sample of them.

    Args:
      budget: bytes that the rows may need.
    """

    def __init__(self, budget: int = SAMPLE_BYTES) -> None:
        self._budget, self._bound = budget, 1 << 32
        self._kept: list[tuple[np.ndarray, ...]] = []

    def add(self, content: np.ndarray, *columns: np.ndarray) -> None:
        """Takes in rows.

        Args:
          content: uint32 (n,) of `content_numbers`.
          columns: arrays (n, ...); every call gives equally many.
        """
        below = content < self._bound
        self._kept.append((content[below], *(column[below] for column in columns)))
        while sum(kept[1].nbytes for kept in self._kept) > self._budget and self._bound > 1:
            # Half of the rows leave, and half of those to come will: the sample stays even.
            self._bound //= 2
            halves = [kept[0] < self._bound for kept in self._kept]
            self._kept = [
                tuple(column[half] for column in kept)
                for kept, half in zip(self._kept, halves, strict=True)
            ]

    def columns(self) -> tuple[np.ndarray, ...]:
        """Returns what was kept of each column, in order; an empty tuple before the first `add`."""
        return tuple(map(np.concatenate, zip(*self._kept, strict=True)))[1:]
