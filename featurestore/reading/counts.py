"""Counts a store's images, without those that a newer run superseded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

from featurestore.commit import Marker
from featurestore.ledger import Ledger
from featurestore.reading.scan import Scanner, ScanOptions


def count_ledger(scanner: Scanner, markers: Sequence[Marker]) -> Ledger:
    """Adds up the ledgers of commits, without superseded images.

    Superseded images are counted by their keys. The counts in the superseding commits are no help,
    because two concurrent runs may have superseded the same image. The function does not open
    commits that no newer run can have superseded.

    Args:
      scanner: of the store, with the visibility of all commits.
      markers: the commits to count.
    """
    return Ledger.total(_counted(scanner, marker) for marker in markers)


def _counted(scanner: Scanner, marker: Marker) -> Ledger:
    if not scanner.visibility.concerns(marker):
        return marker.ledger
    batches = scanner.scan([marker], ScanOptions(("key",), views=(0,)))
    rows = sum(len(batch["key"]) for batch in batches)
    quarantined = sum(1 for _ in live_quarantined(scanner, marker, ["key"]))
    gone = marker.ledger.rows - rows + marker.ledger.quarantined - quarantined
    return dataclasses.replace(
        marker.ledger,
        images_in=marker.ledger.images_in - gone,
        rows=rows,
        quarantined=quarantined,
    )


def live_quarantined(
    scanner: Scanner, marker: Marker, columns: Sequence[str] | None = None
) -> Iterator[Mapping[str, Any]]:
    """Yields a commit's quarantined images that no newer run superseded.

    Args:
      scanner: of the store.
      marker: the commit.
      columns: to read, including the key; None for all.
    """
    if not marker.quarantine:
        return
    with scanner.storage.open_parquet(f"quarantine/{marker.quarantine}") as file:
        rows = file.read(columns=columns).to_pylist()
    shown = scanner.visibility.shows((row["key"] for row in rows), marker.run_id)
    yield from compress(rows, shown)
