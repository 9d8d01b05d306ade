"""Selects rows of a store by their small columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier.features.sample import content_numbers
from featurestore.reading.scan import ScanOptions

if TYPE_CHECKING:
    from featurestore import FeatureStore
    from featurestore.commit import Marker
    from featurestore.reading.scan import Scanner


@dataclass(frozen=True)
class Selection:
    """Some rows of a store.

    Attributes:
      splits: names of their splits, where None means rows without a split; None for all rows.
      carve: content hashes up to this (hex, inclusive) are the validation side; "" for no carve.
      side: of the carve, ``train`` or ``validation``.
      views: whether augmented views are selected too, or only the unaugmented images.
      lone: keys of images that lack some of their views.
      multi_label: whether a row may be of several classes.
      share: the largest of the rows' `content_numbers`; None for all rows.
    """

    splits: tuple[str | None, ...] | None = None
    carve: str = ""
    side: str = "train"
    views: bool = False
    lone: frozenset[str] = frozenset()
    multi_label: bool = False
    share: int | None = None

    def mask(self, content_hashes: np.ndarray) -> np.ndarray:
        """Returns bool (n,): the rows on this side of the carve, and within the share."""
        keep = np.ones(len(content_hashes), bool)
        if self.share is not None:
            keep &= content_numbers(content_hashes) <= self.share
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
        """Streams columns of the selected rows, in a random order if `order` seeds one."""
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
    """Returns whether a content hash (hex) is at or below a carve's boundary."""
    # Hexadecimal texts of equal length sort as their numbers do.
    return content_hash[: len(boundary)] <= boundary
