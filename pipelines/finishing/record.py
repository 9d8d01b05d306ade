"""The record of a run, made at its end: its ledger, its counts, its dead chunks. Needs no Beam."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from classifier.inputs.found import Found
from classifier.inputs.records import file_etag
from featurestore import layout
from featurestore.commit import Marker, data_files, write_manifest
from featurestore.compaction.sweep import sweep_store
from featurestore.decision import read_decision
from featurestore.errors import RunFailed
from featurestore.ignored import merge_notes
from featurestore.index.index import Index
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.store import FeatureStore, open_store
from pipelines.finishing.outcomes import Outcomes, chunk_outcomes
from pipelines.finishing.races import resolve_races
from pipelines.finishing.timereport import RunTime, time_report
from pipelines.planning.runfolder import DeadChunk, RunFacts
from pipelines.planning.storedshards import is_pruning

Opening = Callable[[Storage], FeatureStore]


def opened(storage: Storage) -> FeatureStore:
    """Opens the store in a folder."""
    return open_store(storage.url, storage.options)


def finish_run(storage: Storage, facts: RunFacts, opening: Opening = opened) -> dict[str, Any]:
    """Writes ``runs/<run_id>.json``, the manifest and ``summary.json``; removes orphaned files.

    The store tells what became of each planned chunk, and not what workers returned. It is safe to
    repeat, because a runner may repeat its last step.

    Args:
      storage: of the store.
      facts: from the driver.
      opening: opens the store.

    Returns:
      The run's record, JSON-ready.

    Raises:
      RunFailed: when a chunk or an image is unaccounted for.
    """
    store = opening(storage).at_this_moment()
    outcomes = chunk_outcomes(storage, facts, store.markers())
    outcomes.require_all(facts.run_id)
    index = Index.read(storage, store.markers().values())
    if resolve_races(store, index):
        store = opening(storage).at_this_moment()
        index.hide(store.markers().values())
    record = _record(store, index, facts, outcomes)
    write_manifest(storage, facts.run_id, store.markers().values())
    index.extend(storage, facts.run_id)
    write_record(storage, record)
    sweep_store(storage, store.markers().values(), time.time())
    return record


def _record(
    store: FeatureStore, index: Index, facts: RunFacts, outcomes: Outcomes
) -> dict[str, Any]:
    """Makes a run's record from the store."""
    markers, dead = outcomes.committed, outcomes.dead
    every = list(store.markers().values())
    ledger = _ledger(index, facts, markers, dead)
    ours = [marker for marker in every if marker.run_id == facts.run_id]
    record = {
        **_times(facts, ours, ledger.rows),
        "inputs": list(facts.inputs),
        "listed": facts.plan.listed,
        "already_committed": facts.plan.committed,
        "listed_twice": facts.plan.repeated,
        "committed_by_others": sum(m.ledger.images_in for m in markers if m.run_id != facts.run_id),
        "chunks": len(markers) + len(dead),
        "ledger": asdict(ledger),
        "augmented": sum(marker.augmented for marker in ours),
        "superseded": asdict(Ledger.total(marker.superseded for marker in ours)),
        "store_ledger": asdict(index.ledger(every)),
        "unmarked": 0 if every else sum(1 for _ in data_files(store.storage)),
        "damaged": damaged_shards(every),
        "notes": merge_notes(note for marker in newest_of_shards(every) for note in marker.notes),
        "quarantined_by_kind": quarantined_by_kind(store, facts.run_id),
        "dead": [asdict(chunk) for chunk in dead],
        "ignored": [*facts.ignored_names, *(name for marker in markers for name in marker.ignored)],
        "engine": dict(facts.engine) or _decided(store.storage),
        "numerics": _distinct(marker.numerics for marker in markers),
    }
    if any(marker.source for marker in ours):
        # Only now are the images of shards known; those of folders the driver has counted.
        record["found"] = count_classes(store, ours).lines()
    return record


def _decided(storage: Storage) -> dict[str, Any]:
    """Returns what a worker decided about the engine."""
    decision = read_decision(storage)
    return dict(decision.record) if decision else {}


def _times(facts: RunFacts, ours: Sequence[Marker], rows: int) -> dict[str, Any]:
    """Returns the part of a run's record about its time."""
    finished = time.time()
    seconds = finished - facts.started
    shards = any(marker.source for marker in ours)
    run_time = RunTime(facts.started, finished, facts.steps, facts.workers, shards)
    return {
        "run_id": facts.run_id,
        "started": _iso(facts.started),
        "finished": _iso(finished),
        "seconds": round(seconds, 3),
        "images_per_second": round(rows / seconds, 3) if seconds > 0 else 0.0,
        "time": time_report([marker.time for marker in ours if marker.time], run_time),
    }


def write_record(storage: Storage, record: Mapping[str, Any]) -> None:
    """Writes a run's record, and its copy as the store's summary."""
    text = json.dumps(record, indent=2) + "\n"
    storage.write(layout.run_file(record["run_id"]), text)
    storage.write(layout.SUMMARY, text)


def _ledger(
    index: Index, facts: RunFacts, markers: Sequence[Marker], dead: Sequence[DeadChunk]
) -> Ledger:
    """Adds up a run's ledger, and checks it against itself and against the plan."""
    lost = sum(chunk.images for chunk in dead)
    # The images of shards, and of another store's commits, were not counted beforehand.
    counted = [marker for marker in markers if not (marker.source or marker.origin)]
    handled = lost + sum(marker.ledger.images_in for marker in counted)
    if handled != facts.plan.images:
        raise RunFailed(
            f"run {facts.run_id}: {facts.plan.images} images were planned, and {handled} came "
            "out of the chunks; please report this with the store's runs/ folder"
        )
    # A chunk that another job committed first is in that job's ledger.
    ours = Ledger.total(m.ledger for m in markers if m.run_id == facts.run_id)
    rest = Ledger(
        images_in=lost,
        dead_images=lost,
        dead_chunks=len(dead),
        duplicates=count_duplicates(index, facts.run_id),
        ignored=facts.ignored,
    )
    return (ours + rest).check(f"run {facts.run_id}")


def newest_of_shards(markers: Iterable[Marker]) -> list[Marker]:
    """Returns the commits of each shard's newest version: one per slice of the file."""
    newest: dict[str, tuple[Any, dict[str, Marker]]] = {}
    for marker in sorted(markers, key=lambda marker: marker.run_id):
        source = marker.source
        if source and not is_pruning(marker):
            version = (source["uri"], source["size"], file_etag(source["etag"]))
            before, slices = newest.get(source["key"], (version, {}))
            slices = slices if before == version else {}
            newest[source["key"]] = version, {**slices, source["etag"]: marker}
    return [marker for _, slices in newest.values() for marker in slices.values()]


def damaged_shards(markers: Iterable[Marker]) -> list[dict[str, str]]:
    """Lists the shards whose newest version could not be read to its end."""
    damage = {
        marker.source["key"]: marker.damage
        for marker in reversed(newest_of_shards(markers))
        if marker.damage
    }
    return [{"shard": key, "damage": message} for key, message in sorted(damage.items())]


def count_classes(store: FeatureStore, markers: Sequence[Marker]) -> Found:
    """Counts the images of some commits by class and by split."""
    found = Found()
    for batch in store.scan_markers(markers, ["labels", "split"], views=[0]):
        for labels, split in zip(batch["labels"], batch["split"], strict=True):
            found.count(labels, split)
    return found


def count_duplicates(index: Index, run_id: str) -> int:
    """Counts the view-0 rows of a run whose content an earlier row has.

    At a hundred million rows the chance that two different images count as one is 1 in 3,700
    (birthday bound for 64 bits).
    """
    own = [number for number, marker in enumerate(index.markers) if marker.run_id == run_id]
    rows = sum(index.markers[number].ledger.rows for number in own)
    # One range of contents after the other, so that a large run needs little memory.
    ranges = 1 + rows // (1 << 22)
    cuts = [(number << 64) // ranges for number in range(ranges)] + [1 << 64]
    return sum(_duplicates(index, own, cuts[at], cuts[at + 1] - 1) for at in range(ranges))


def _duplicates(index: Index, own: Sequence[int], low: int, high: int) -> int:
    found = [np.empty(0, np.uint64)]
    for columns in index.sets:
        for rows in index.live_rows(columns):
            rows = rows[np.isin(index.markers_of(columns, rows), own)]
            content = columns["content"][rows]
            found.append(content[(content >= np.uint64(low)) & (content <= np.uint64(high))])
    contents, counts = np.unique(np.concatenate(found), return_counts=True)
    is_new = index.count_contents(contents) == counts
    return int(counts.sum() - np.count_nonzero(is_new))


def quarantined_by_kind(store: FeatureStore, run_id: str) -> dict[str, int]:
    """Counts a run's quarantined images by kind."""
    kinds = Counter(row["kind"] for row in store.quarantined(run_id))
    return dict(sorted(kinds.items()))


def _distinct(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    distinct = {json.dumps(dict(record), sort_keys=True): record for record in records}
    return [dict(record) for record in distinct.values()]


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
