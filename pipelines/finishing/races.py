"""Settles which row of a key counts when two jobs wrote it at the same time."""

from __future__ import annotations

from collections import defaultdict

from featurestore import layout
from featurestore.checking.duplicates import KeyDigests, row_digest
from featurestore.commit import Marker, commit
from featurestore.io.storage import Storage
from featurestore.ledger import superseded_ledger
from featurestore.reading.scan import ScanOptions
from featurestore.store import open_store


def resolve_races(storage: Storage) -> int:
    """Keeps one row of each key that two jobs wrote at the same time: the newest run's.

    Returns:
      The number of keys that were written twice.
    """
    store = open_store(storage.url, storage.options)
    markers = list(store.markers().values())
    scanner, options = store.scanner(markers), ScanOptions(("key", "view"), views=(0,))
    digests = KeyDigests()
    for batch in scanner.scan(markers, options):
        digests.add(batch)
    count, repeated = digests.repeated(most=None)
    if not count:
        return 0
    writers: dict[str, list[str]] = defaultdict(list)  # key -> the runs that wrote it
    for marker in markers:
        for batch in scanner.scan([marker], options):
            for key in batch["key"]:
                if row_digest(key, 0) in repeated:
                    writers[key].append(marker.run_id)
    by_newest: dict[str, list[str]] = defaultdict(list)
    for key, runs in writers.items():
        by_newest[max(runs)].append(key)
    for run_id, keys in by_newest.items():
        keys.sort()
        older = sum(sum(run < run_id for run in writers[key]) for key in keys)
        marker = Marker(
            chunk_id=layout.chunk_id([("race", 0, run_id), *((key, 0, "") for key in keys)]),
            run_id=run_id,
            first_key="",
            supersedes=tuple(keys),
            superseded=superseded_ledger({"row": older}),
        )
        commit(storage, marker)
    return len(writers)
