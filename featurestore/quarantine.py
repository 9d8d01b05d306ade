"""Counts and prints the images that could not be used."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from featurestore.errors import unknown_choice
from featurestore.store import FeatureStore

GROUPINGS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "kind": lambda row: row["kind"],
    "folder": lambda row: posixpath.dirname(row["key"]) or ".",
    "message": lambda row: row["message"],
}


def count_quarantined(store: FeatureStore, by: str = "kind") -> dict[str, int]:
    """Returns the number of quarantined images by group, largest group first.

    Args:
      store: an open store.
      by: one of `GROUPINGS`.

    Raises:
      UsageError: for an unknown grouping.
    """
    if by not in GROUPINGS:
        raise unknown_choice("--by", by, GROUPINGS)
    counts = Counter(map(GROUPINGS[by], store.quarantined()))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def format_quarantine(
    counts: Mapping[str, int], rows: Iterator[Mapping[str, Any]], by: str
) -> Iterator[str]:
    """Yields the lines of the readable report: the counts, then the images."""
    total = sum(counts.values())
    yield f"{total:,} images in quarantine" + (f", by {by}:" if total else "")
    for name, count in counts.items():
        yield f"  {count:>9,}  {name}"
    shown = 0
    for row in rows:
        shown += 1
        yield f"{row['kind']}: {row['key']}: {' '.join(row['message'].split())}"
    if shown < total:
        yield f"and {total - shown:,} more; --limit 0 lists all"
