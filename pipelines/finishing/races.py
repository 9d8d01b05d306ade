"""Settles which row of a key counts when two jobs wrote it at the same time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from featurestore import layout
from featurestore.commit import Marker, commit
from featurestore.index.index import Index
from featurestore.io.sorting import Columns, digests, matches
from featurestore.ledger import superseded_ledger
from featurestore.reading.scan import ScanOptions
from featurestore.store import FeatureStore


def resolve_races(store: FeatureStore, index: Index) -> list[Marker]:
    """Keeps one row of each key that two jobs wrote at the same time: the newest run's.

    Only the commits that no run has added to the index can hold such a key, because the run that
    added the others has looked at them.

    Args:
      store: at the moment of the index.
      index: of the store.

    Returns:
      The commits that hide the other rows.
    """
    concerned: set[int] = set()
    repeated: set[bytes] = set()
    for keys, commits in _repeated(index):
        repeated.update(key.tobytes() for key in keys)
        concerned.update(commits.tolist())
    markers = [index.markers[number] for number in sorted(concerned)]
    scanner = store.scanner(store.markers().values())
    writers: dict[str, list[str]] = defaultdict(list)  # key -> the runs that wrote it
    for marker in markers:
        for batch in scanner.scan([marker], ScanOptions(("key",), views=(0,))):
            for key, one in zip(batch["key"], digests(batch["key"]), strict=True):
                if one.tobytes() in repeated:
                    writers[key].append(marker.run_id)
    by_newest: dict[str, list[str]] = defaultdict(list)
    for key, runs in writers.items():
        by_newest[max(runs)].append(key)
    made = []
    for run_id, names in by_newest.items():
        names.sort()
        older = sum(sum(run < run_id for run in writers[key]) for key in names)
        marker = Marker(
            chunk_id=layout.chunk_id([("race", 0, run_id), *((key, 0, "") for key in names)]),
            run_id=run_id,
            first_key="",
            supersedes=tuple(names),
            superseded=superseded_ledger({"row": older}),
        )
        made.append(commit(store.storage, marker))
    return made


def _repeated(index: Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields digests of keys with several rows, uint64 (n, 2), and places of their commits."""
    fresh = index.sets[-1]
    for rows in index.live_rows(fresh):
        keys = _keys(fresh, rows)
        for columns in index.sets:
            found, others = matches(columns["key"], keys[:, 0])
            keep = columns["key_rest"][others] == keys[found, 1]
            keep &= index.are_rows(columns, others)
            if columns is fresh:
                keep &= others != rows[found]
            found, others = found[keep], others[keep]
            if len(found):
                yield keys[found], index.markers_of(fresh, rows[found])
                yield keys[found], index.markers_of(columns, others)


def _keys(columns: Columns, rows: np.ndarray) -> np.ndarray:
    return np.stack([columns["key"][rows], columns["key_rest"][rows]], axis=1)
