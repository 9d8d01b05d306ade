"""Finds keys that occur twice, in 16 bytes of memory a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LISTED = 100


def row_digest(key: str, view: int) -> bytes:
    """Returns the 16 bytes that stand for a view of an image."""
    return hashlib.blake2b(f"{view}\0{key}".encode(), digest_size=16).digest()


@dataclass
class KeyDigests:
    """The digests of all rows of a store.

    Attributes:
      images: view-0 rows seen.
    """

    images: int = 0
    _digests: bytearray = field(default_factory=bytearray)

    def add(self, batch: Mapping[str, Any]) -> None:
        """Takes in the columns key and view of some rows."""
        self.images += int(np.count_nonzero(batch["view"] == 0))
        for key, view in zip(batch["key"], batch["view"].tolist(), strict=True):
            self._digests += row_digest(key, view)

    def repeated(self, most: int | None = LISTED) -> tuple[int, set[bytes]]:
        """Counts the digests that occur more than once, and returns the first `most`, or all.

        Sorts in place; two different rows share a digest with a chance of one in 10^20 at a
        billion rows (birthday bound for 128 bits).
        """
        # Bytes compare as wholes here: every entry is as long as the type.
        digests = np.frombuffer(self._digests, "S16")
        digests.sort()
        positions = np.flatnonzero(digests[1:] == digests[:-1])
        repeated = np.unique(digests[positions])
        listed = repeated[:most].tolist()
        return len(repeated), {digest.ljust(16, b"\0") for digest in listed}


def occurrences(
    batches: Iterable[Mapping[str, Any]], wanted: set[bytes]
) -> dict[tuple[str, int], list[str]]:
    """Names the rows behind digests: (key, view) -> the URIs of its rows.

    Args:
      batches: of the columns key, view and uri.
      wanted: digests to look for.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for batch in batches:
        views = batch["view"].tolist()
        for key, view, uri in zip(batch["key"], views, batch["uri"], strict=True):
            if row_digest(key, view) in wanted:
                found.setdefault((key, view), []).append(uri)
    return found
