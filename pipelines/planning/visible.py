"""Reads which images of a store count, and the images of single commits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from featurestore.commit import Marker
from featurestore.reading.scan import ScanOptions
from featurestore.store import FeatureStore

_COLUMNS = ("key", "uri", "size", "etag")


def visible_inputs(
    store: FeatureStore, markers: Iterable[Marker]
) -> Iterator[tuple[Marker, str, list[tuple]]]:
    """Yields the images of some commits that were not superseded, commit by commit.

    Yields:
      (commit, ``row``, ``quarantined`` or ``unreadable``, (key, uri, size, etag) of some images).
    """
    scanner, options = store.scanner(store.markers().values()), ScanOptions(_COLUMNS, views=(0,))
    for marker in markers:
        for batch in scanner.scan([marker], options):
            columns = (batch[name].tolist() for name in _COLUMNS)
            yield marker, "row", list(zip(*columns, strict=True))
        if marker.quarantine:
            with store.storage.open_parquet(f"quarantine/{marker.quarantine}") as file:
                rows = file.read(columns=[*_COLUMNS, "kind"]).to_pylist()
            shown = scanner.visibility.shows((row["key"] for row in rows), marker.run_id)
            kept = [row for row, show in zip(rows, shown, strict=True) if show]
            for kind, match in (("unreadable", True), ("quarantined", False)):
                some = [row for row in kept if (row["kind"] == "unreadable") is match]
                yield marker, kind, [tuple(row[name] for name in _COLUMNS) for row in some]


def counted_as(kind: str) -> str:
    """Returns ``row`` or ``quarantined`` for a kind of `visible_inputs`."""
    return "row" if kind == "row" else "quarantined"


def images_of_shard(store: FeatureStore, shard_key: str) -> dict[str, str]:
    """Returns a shard's images that were not superseded: key -> ``row`` or ``quarantined``."""
    every = store.markers().values()
    markers = [m for m in every if m.source and m.source["key"] == shard_key]
    held: dict[str, str] = {}
    for _, kind, rows in visible_inputs(store, markers):
        held.update((row[0], counted_as(kind)) for row in rows)
    return held


def committed_keys(store: FeatureStore, marker: Marker) -> Iterator[str]:
    """Yields the keys of a commit's rows and quarantined images, superseded ones too."""
    for folder, name in (("parts", marker.part), ("quarantine", marker.quarantine)):
        if name:
            with store.storage.open_parquet(f"{folder}/{name}") as file:
                yield from file.read(columns=["key"])["key"].to_pylist()
