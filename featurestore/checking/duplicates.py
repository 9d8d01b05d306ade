"""Finds duplicate keys with 16 bytes of memory per row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LISTED = 100


def row_digest(key: str, view: int) -> bytes:
    """Returns 16 bytes that identify a view of an image."""
    return hashlib.blake2b(f"{view}\0{key}".encode(), digest_size=16).digest()


@dataclass
class KeyDigests:
    """The digests of all rows of a store.

    Attributes:
      images: view-0 rows so far.
    """

    images: int = 0
    _digests: bytearray = field(default_factory=bytearray)

    def add(self, batch: Mapping[str, Any]) -> None:
        """Adds rows, given their columns key and view."""
        self.images += int(np.count_nonzero(batch["view"] == 0))
        for key, view in zip(batch["key"], batch["view"].tolist(), strict=True):
            self._digests += row_digest(key, view)

    def repeated(self, most: int | None = LISTED) -> tuple[int, set[bytes]]:
        """Counts the digests that occur more than once, and returns the first `most`, or all.

        Sorts in place. In a billion rows, two different ones share a digest with a probability of
        one in 10^20 (birthday bound for 128 bits).
        """
        # NumPy strips zeros at the end of S16 entries, but compares all 16 bytes.
        digests = np.frombuffer(self._digests, "S16")
        digests.sort()
        positions = np.flatnonzero(digests[1:] == digests[:-1])
        repeated = np.unique(digests[positions])
        listed = repeated[:most].tolist()
        return len(repeated), {digest.ljust(16, b"\0") for digest in listed}


def occurrences(
    batches: Iterable[Mapping[str, Any]], wanted: set[bytes]
) -> dict[tuple[str, int], list[str]]:
    """Returns the rows with the given digests, as (key, view) -> URIs of its rows.

    Args:
      batches: rows, with the columns key, view and uri.
      wanted: the digests.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for batch in batches:
        views = batch["view"].tolist()
        for key, view, uri in zip(batch["key"], views, batch["uri"], strict=True):
            if row_digest(key, view) in wanted:
                found.setdefault((key, view), []).append(uri)
    return found
