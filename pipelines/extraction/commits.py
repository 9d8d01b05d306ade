"""The commits of a store as the input of a run: what is planned, and the rows that are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from classifier.inputs import ShardRef
from featurestore.commit import Marker
from featurestore.reading.scan import Scanner, ScanOptions
from featurestore.schema import FEATURES, META_FIELDS
from featurestore.store import FeatureStore


def commit_ref(store: FeatureStore, marker: Marker) -> ShardRef:
    """Returns a commit as a shard, so that it is planned as a chunk of its own."""
    name = f"parts/{marker.part}" if marker.part else f"markers/{marker.chunk_id}"
    uri = f"{store.url}/{name}"
    return ShardRef(name, uri, marker.part_bytes, marker.chunk_id, "store", layout="flat")


def rows_of_commit(
    scanner: Scanner, marker: Marker, batch_size: int, views: Sequence[int] | None = None
) -> Iterator[tuple[list[Mapping[str, Any]], np.ndarray]]:
    """Yields some rows of a commit that still count, and their features.

    Args:
      scanner: of the store.
      marker: the commit.
      batch_size: rows at a time, at most.
      views: keep these; None keeps all.
    """
    names = tuple(field.name for field in META_FIELDS)
    options = ScanOptions(
        (*names, FEATURES), views=None if views is None else tuple(views), batch_size=batch_size
    )
    for batch in scanner.scan([marker], options):
        values = (batch[name].tolist() for name in names)
        rows: list[Mapping[str, Any]] = [
            dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)
        ]
        yield rows, batch[FEATURES]
