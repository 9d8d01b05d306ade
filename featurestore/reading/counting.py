"""Counts what counts in a store: the images of all commits that no newer run superseded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

from featurestore.commit import Marker
from featurestore.ledger import Ledger
from featurestore.reading.scan import Scanner, ScanOptions


def count_ledger(scanner: Scanner, markers: Sequence[Marker]) -> Ledger:
    """Adds up the ledgers of commits, without what was superseded.

    That is counted by its keys and never by what the superseding commits say of it: two runs at
    once may both have superseded the same image. Commits that nothing can have superseded are not
    opened.

    Args:
      scanner: of the store, with the visibility of all its commits.
      markers: the commits.
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
    """Yields a commit's quarantined images that count.

    Args:
      scanner: of the store.
      marker: the commit.
      columns: to read, the key among them; None for all.
    """
    if not marker.quarantine:
        return
    with scanner.storage.open_parquet(f"quarantine/{marker.quarantine}") as file:
        rows = file.read(columns=columns).to_pylist()
    shown = scanner.visibility.shows((row["key"] for row in rows), marker.run_id)
    yield from compress(rows, shown)
