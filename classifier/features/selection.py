"""Rows of a store that belong together, decided row by row from their small columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featurestore.reading.scan import ScanOptions

if TYPE_CHECKING:
    from featurestore import FeatureStore
    from featurestore.commit import Marker
    from featurestore.reading.scan import Scanner


@dataclass(frozen=True)
class Selection:
    """Some rows of a store, decided row by row from their small columns.

    Attributes:
      splits: the splits they are in; None inside means rows without one, None instead means all.
      carve: content hashes up to this (hex, inclusive) are the validation side; "" for no carve.
      side: of the carve, ``train`` or ``validation``.
      views: whether augmented views belong to it, or only the image as it is.
      lone: keys of images that lack some of their views.
      multi_label: whether a row may be of several classes.
      share: the last 8 hex digits of content hashes go up to this (inclusive); "" for all.
    """

    splits: tuple[str | None, ...] | None = None
    carve: str = ""
    side: str = "train"
    views: bool = False
    lone: frozenset[str] = frozenset()
    multi_label: bool = False
    share: str = ""

    def mask(self, content_hashes: np.ndarray) -> np.ndarray:
        """Returns bool (n,): the rows on this side of the carve, and within the share."""
        keep = np.ones(len(content_hashes), bool)
        if self.share:
            # Not the digits that the carve goes by: a share of one side is to be even.
            keep &= np.array([value[-8:] <= self.share for value in content_hashes], bool)
        if self.carve:
            below = np.array([is_below(value, self.carve) for value in content_hashes], bool)
            keep &= below == (self.side == "validation")
        return keep

    def batches(
        self,
        store: FeatureStore,
        columns: Sequence[str],
        batch_size: int = 1024,
        order: tuple[int, ...] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Streams columns of the selected rows; `order` seeds another one than the stored."""
        markers = list(store.markers().values())
        return self.read(store.scanner(markers), markers, columns, batch_size, order)

    def read(
        self,
        scanner: Scanner,
        markers: Iterable[Marker],
        columns: Sequence[str],
        batch_size: int = 1024,
        order: tuple[int, ...] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Streams columns of the selected rows of some commits."""
        wanted = tuple(dict.fromkeys((*columns, "content_hash")))
        views = None if self.views else (0,)
        options = ScanOptions(wanted, self.splits, batch_size=batch_size, views=views, order=order)
        for batch in scanner.scan(markers, options):
            keep = self.mask(batch["content_hash"])
            if keep.all():
                yield batch
            elif keep.any():
                yield {name: column[keep] for name, column in batch.items()}


def is_below(content_hash: str, boundary: str) -> bool:
    """Tells whether a content hash (hex) is up to a carve's boundary, inclusive."""
    # Hexadecimal digits of equal number sort as the numbers do.
    return content_hash[: len(boundary)] <= boundary
