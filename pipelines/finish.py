"""Ends a run: its ledger, its manifest, its summary. Needs no Beam."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from featurestore import layout
from featurestore.commit import (
    Marker,
    commit,
    read_markers,
    store_ledger,
    sweep_store,
    write_manifest,
)
from featurestore.ledger import Ledger, superseded_ledger
from featurestore.scan import ScanOptions
from featurestore.storage import Storage
from featurestore.store import FeatureStore, open_store


@dataclass(frozen=True)
class DeadChunk:
    """A chunk that failed as a whole; a later run tries it again.

    Attributes:
      chunk_id: 32 hex digits.
      first: key of its first input.
      images: in it, 0 where not countable.
      kind: the error's type.
      message: the error's text, in one line.
    """

    chunk_id: str
    first: str
    images: int
    kind: str
    message: str


@dataclass(frozen=True)
class RunFacts:
    """What the driver knows of a run before it starts.

    Attributes:
      run_id: of the run.
      started: seconds since the epoch.
      inputs: their addresses without credentials.
      listed: images and shards in the input.
      committed: of them, those in the store already.
      planned_images: to be extracted, those in shards not counted.
      ignored: files that are no images.
      ignored_names: the first thousand of them.
    """

    run_id: str
    started: float
    inputs: tuple[str, ...] = ()
    listed: int = 0
    committed: int = 0
    planned_images: int = 0
    ignored: int = 0
    ignored_names: tuple[str, ...] = field(default=(), repr=False)


def finish_run(
    storage: Storage, facts: RunFacts, markers: Sequence[Marker], dead: Sequence[DeadChunk]
) -> dict[str, Any]:
    """Writes ``runs/<run_id>.json``, the manifest and ``summary.json``; sweeps what died earlier.

    Safe to repeat, as a runner may repeat its last step.

    Args:
      storage: of the store.
      facts: from the driver.
      markers: of the chunks this run handled.
      dead: the chunks that failed.

    Returns:
      The run's record, JSON-ready.

    Raises:
      RunFailed: when images are unaccounted for.
    """
    resolve_races(storage)
    every = read_markers(storage)
    # A chunk that another job was faster with is in that job's ledger.
    ours = Ledger.total(m.ledger for m in markers if m.run_id == facts.run_id)
    lost = Ledger(
        images_in=sum(chunk.images for chunk in dead),
        dead_images=sum(chunk.images for chunk in dead),
        dead_chunks=len(dead),
        duplicates=count_duplicates(storage, facts.run_id),
        ignored=facts.ignored,
    )
    ledger = (ours + lost).check(f"run {facts.run_id}")
    seconds = time.time() - facts.started
    record = {
        "run_id": facts.run_id,
        "started": _iso(facts.started),
        "finished": _iso(facts.started + seconds),
        "seconds": round(seconds, 3),
        "images_per_second": round(ledger.rows / seconds, 3) if seconds > 0 else 0.0,
        "inputs": list(facts.inputs),
        "listed": facts.listed,
        "already_committed": facts.committed,
        "chunks": len(markers) + len(dead),
        "ledger": asdict(ledger),
        "superseded": asdict(
            Ledger.total(m.superseded for m in every.values() if m.run_id == facts.run_id)
        ),
        "store_ledger": asdict(store_ledger(every.values())),
        "damaged": damaged_shards(every.values()),
        "quarantined_by_kind": quarantined_by_kind(storage, facts.run_id),
        "dead": [asdict(chunk) for chunk in dead],
        "ignored": [*facts.ignored_names, *(name for marker in markers for name in marker.ignored)],
        "numerics": _distinct([dict(marker.numerics) for marker in markers]),
    }
    write_manifest(storage, facts.run_id, every.values())
    text = json.dumps(record, indent=2) + "\n"
    storage.write(layout.run_file(facts.run_id), text)
    storage.write(layout.SUMMARY, text)
    sweep_store(storage, time.time())
    return record


def prune(store: FeatureStore, run_id: str, gone: Mapping[str, str]) -> int:
    """Supersedes images whose input is gone; their parts stay as they are.

    Args:
      store: that holds them.
      run_id: of the run that found out.
      gone: key -> ``row`` or ``quarantined``.

    Returns:
      The number of images.
    """
    if gone:
        commit(
            store.storage,
            Marker(
                chunk_id=layout.chunk_id([("prune", 0, run_id)]),
                run_id=run_id,
                first_key="",
                supersedes=tuple(sorted(gone)),
                superseded=superseded_ledger(Counter(gone.values())),
            ),
        )
    return len(gone)


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


def damaged_shards(markers: Iterable[Marker]) -> list[dict[str, str]]:
    """Lists the shards whose newest version could not be read to its end."""
    newest: dict[str, Marker] = {}
    for marker in sorted(markers, key=lambda marker: marker.run_id):
        if marker.source:
            newest[marker.source["key"]] = marker
    return [
        {"shard": key, "damage": marker.damage} for key, marker in newest.items() if marker.damage
    ]


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


def quarantined_by_kind(storage: Storage, run_id: str) -> dict[str, int]:
    """Counts a run's quarantined images by kind."""
    store = open_store(storage.url, storage.options)
    kinds = Counter(row["kind"] for row in store.quarantined(run_id))
    return dict(sorted(kinds.items()))


def _distinct(records: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({json.dumps(record, sort_keys=True): record for record in records}.values())


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
