"""Settles which rows count: what is gone from the input, and what two jobs wrote twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np

from classifier.inputs.found import Found
from featurestore import layout
from featurestore.commit import Marker, commit
from featurestore.io.storage import Storage
from featurestore.ledger import superseded_ledger
from featurestore.reading.scan import ScanOptions
from featurestore.store import FeatureStore, open_store
from pipelines.planning.heldshards import pruning_id
from pipelines.planning.pruning import Gone


def prune(store: FeatureStore, run_id: str, gone: Iterable[Gone]) -> int:
    """Supersedes images whose input is gone; their parts stay as they are.

    Args:
      store: that holds them.
      run_id: of the run that found out.
      gone: those of files, and of each shard that stays in part.

    Returns:
      The number of images.
    """
    pruned = 0
    for some in gone:
        commit(
            store.storage,
            Marker(
                chunk_id=pruning_id(run_id, some.shard.get("key", "")),
                run_id=run_id,
                first_key="",
                source=some.shard,
                supersedes=tuple(sorted(some.images)),
                superseded=superseded_ledger(Counter(some.images.values())),
            ),
        )
        pruned += len(some.images)
    return pruned


def resolve_races(storage: Storage) -> int:
    """Lets one row stay of each key that two jobs at once have written: the newest run's.

    Returns:
      The number of rows superseded.
    """
    store = open_store(storage.url, storage.options)
    markers = list(store.markers().values())
    scanner, options = store.scanner(markers), ScanOptions(("key",), views=(0,))
    seen: set[bytes] = set()
    twice: set[str] = set()
    for batch in scanner.scan(markers, options):
        for key in batch["key"]:
            digest = hashlib.sha256(key.encode()).digest()[:16]
            if digest in seen:
                twice.add(key)
            seen.add(digest)
    if not twice:
        return 0
    holders: dict[str, list[str]] = {key: [] for key in twice}
    for marker in markers:
        for batch in scanner.scan([marker], options):
            for key in twice.intersection(batch["key"]):
                holders[key].append(marker.run_id)
    by_newest: dict[str, list[str]] = {}
    for key, runs in holders.items():
        by_newest.setdefault(max(runs), []).append(key)
    for run_id, keys in by_newest.items():
        keys.sort()
        older = sum(sum(run < run_id for run in holders[key]) for key in keys)
        chunk_id = layout.chunk_id([("race", 0, run_id), *((key, 0, "") for key in keys)])
        marker = Marker(
            chunk_id=chunk_id,
            run_id=run_id,
            first_key="",
            supersedes=tuple(keys),
            superseded=superseded_ledger({"row": older}),
        )
        commit(storage, marker)
    return len(twice)


def count_classes(storage: Storage, run_id: str) -> Found:
    """Counts the images of a run by class and by split."""
    store, found = open_store(storage.url, storage.options), Found()
    ours = [marker for marker in store.markers().values() if marker.run_id == run_id]
    for batch in store.scan_markers(ours, ["labels", "split"], views=[0]):
        for labels, split in zip(batch["labels"], batch["split"], strict=True):
            found.count(labels, split)
    return found


def count_duplicates(storage: Storage, run_id: str) -> int:
    """Counts the view-0 rows of a run whose content is in an earlier row.

    Holds eight bytes a row: at a hundred million rows a chance of one in 3,700 that two different
    images count as one (birthday bound for 64 bits).
    """
    store = open_store(storage.url, storage.options)
    before, ours = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    markers = store.markers().values()
    for target, wanted in ((before, False), (ours, True)):
        chosen = [marker for marker in markers if (marker.run_id == run_id) is wanted]
        for batch in store.scan_markers(chosen, ["content_hash"], views=[0]):
            hashes = [int(text[:16], 16) for text in batch["content_hash"]]
            target.append(np.array(hashes, np.uint64))
    old, new = np.unique(np.concatenate(before)), np.concatenate(ours)
    distinct = np.setdiff1d(new, old)
    return len(new) - len(distinct)
