"""Merges small parts under the protocol of commits, beside readers and running extractions.

A merged part is published, then the marker that names it and the chunks that it replaces. From that
moment on readers see the merged part instead of the others; a reader that began before goes on with
those. Their files stay for a day, and a later compaction removes them. So a kill at any instant
leaves either the old commits or the new one, and the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.commit import (
    Marker,
    commit,
    read_markers,
    without_replaced,
    write_manifest,
)
from featurestore.compaction.stretches import Stretch, stretches
from featurestore.compaction.sweep import sweep_replaced
from featurestore.compaction.turn import FOLDER, only_one
from featurestore.ignored import merge_notes
from featurestore.index.index import Index
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.reading.visibility import Visibility
from featurestore.schema import QUARANTINE_SCHEMA, row_schema
from featurestore.spec import StoreSpec
from featurestore.store import FeatureStore
from featurestore.writer import ParquetFile, Written, group_rows, part_settings, publish

PART_BYTES = 256 << 20
# How long a replaced file stays for the readers that began before it was replaced.
KEEP_SECONDS = 24 * 3600.0


@dataclass
class Compacted:
    """What a compaction did.

    Attributes:
      merged: commits that it merged.
      parts: merged commits that it made.
      dropped: superseded rows and quarantined images that it left out.
      removed: files of replaced commits that it deleted.
      waiting: replaced commits whose files stay for their readers until a later compaction.
    """

    merged: int = 0
    parts: int = 0
    dropped: int = 0
    removed: int = 0
    waiting: int = 0


def compact(
    store: FeatureStore, part_bytes: int = PART_BYTES, keep_seconds: float = KEEP_SECONDS
) -> Compacted:
    """Merges the small parts of a store, and removes those that earlier compactions replaced.

    Args:
      store: to compact.
      part_bytes: the size of part to aim at.
      keep_seconds: how long replaced files stay.

    Raises:
      UsageError: when another compaction is under way.
      CorruptStore: when a part that is to be merged is missing or unreadable.
      RunFailed: when a merged commit does not balance.
    """
    with only_one(store.storage):
        return _compact(store, part_bytes, keep_seconds)


def _compact(store: FeatureStore, part_bytes: int, keep_seconds: float) -> Compacted:
    storage, done = store.storage, _merge_small(store, part_bytes)
    markers = read_markers(storage, replaced=True)
    if done.merged:
        stamp = time.strftime("%Y%m%dT%H%M%S000000Z", time.gmtime())
        name = f"{stamp}-compact-{uuid.uuid4().hex[:6]}"
        live = without_replaced(markers).values()
        write_manifest(storage, name, live)
        Index.read(storage, live).extend(storage, name, FOLDER)
    done.removed, done.waiting = sweep_replaced(storage, markers, time.time() - keep_seconds)
    return done


def _merge_small(store: FeatureStore, part_bytes: int) -> Compacted:
    storage, done = store.storage, Compacted()
    markers = list(read_markers(storage).values())
    visibility = Visibility.of(markers)
    for stretch in stretches(storage, markers, part_bytes):
        merged = merge(storage, store.spec, stretch, visibility)
        done.merged += len(merged.replaces)
        done.parts += bool(merged.part)
        before = Ledger.total(marker.ledger for marker in stretch.markers)
        done.dropped += before.images_in - merged.ledger.images_in
    return done


def merge(storage: Storage, spec: StoreSpec, stretch: Stretch, visibility: Visibility) -> Marker:
    """Merges the commits of a stretch into one, without what was superseded.

    Returns:
      The marker that counts, which may be that of another compaction at the same time.
    """
    chunk_id, first = stretch.chunk_id, stretch.markers[0]
    with storage.workspace(f"{FOLDER}/{chunk_id}") as at:
        rows = (m for m in stretch.markers if m.part)
        bad = (m for m in stretch.markers if m.quarantine)
        part, images = _merge_parts(storage, spec, at / "part", rows, visibility)
        quarantine = _merge_quarantine(storage, at / "bad", bad, visibility)
        whole = Ledger.total(marker.ledger for marker in stretch.markers)
        ledger = dataclasses.replace(
            whole, images_in=images + quarantine.rows, rows=images, quarantined=quarantine.rows
        )
        marker = Marker(
            chunk_id=chunk_id,
            run_id=stretch.run_id,
            first_key=first.first_key,
            ledger=ledger.check(f"merged chunk {chunk_id}"),
            augmented=part.rows - images,
            numerics=first.numerics,
            seconds=sum(marker.seconds for marker in stretch.markers),
            ignored=tuple(name for marker in stretch.markers for name in marker.ignored),
            notes=tuple(merge_notes(note for m in stretch.markers for note in m.notes)),
            supersedes=tuple(key for marker in stretch.markers for key in marker.supersedes),
            superseded=Ledger.total(marker.superseded for marker in stretch.markers),
            replaces=tuple(marker.chunk_id for marker in stretch.markers),
        )
        for written, folder in ((part, "parts"), (quarantine, "quarantine")):
            marker = _published(storage, marker, written, folder)
        return commit(storage, marker)


def _published(storage: Storage, marker: Marker, written: Written, folder: str) -> Marker:
    if not written.rows:
        return marker
    name = publish(storage, marker.chunk_id, written, folder)
    if folder == "quarantine":
        return dataclasses.replace(marker, quarantine=name, quarantine_sha256=written.sha256)
    return dataclasses.replace(
        marker, part=name, part_sha256=written.sha256, part_bytes=written.size
    )


def _merge_parts(
    storage: Storage,
    spec: StoreSpec,
    path: Path,
    markers: Iterator[Marker],
    visibility: Visibility,
) -> tuple[Written, int]:
    """Copies the rows that count into one part; returns it and its number of view-0 rows."""
    images, limit = 0, group_rows(spec)
    waiting: list[pa.Table] = []
    with ParquetFile(path, row_schema(spec), **part_settings(spec)) as writer:

        def flush(least: int) -> None:
            nonlocal waiting
            if not waiting:
                return
            table = pa.concat_tables(waiting)
            while table.num_rows >= least and table.num_rows:
                writer.write_table(table.slice(0, limit).combine_chunks())
                table = table.slice(limit)
            waiting = [table]

        for marker in markers:
            for table in _visible_tables(storage, f"parts/{marker.part}", marker, visibility):
                images += pc.sum(pc.equal(table["view"], 0)).as_py() or 0
                waiting.append(table)
                flush(limit)
        flush(1)
        return writer.finish(), images


def _visible_tables(
    storage: Storage, path: str, marker: Marker, visibility: Visibility
) -> Iterator[pa.Table]:
    with storage.open_parquet(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            if visibility.concerns(marker):
                shown = visibility.shows(table["key"].to_pylist(), marker.run_id)
                table = table.filter(pa.array(shown))
            yield table


def _merge_quarantine(
    storage: Storage, path: Path, markers: Iterator[Marker], visibility: Visibility
) -> Written:
    with ParquetFile(path, QUARANTINE_SCHEMA, compression="zstd") as writer:
        for marker in markers:
            for table in _visible_tables(
                storage, f"quarantine/{marker.quarantine}", marker, visibility
            ):
                if table.num_rows:
                    writer.write_table(table)
        return writer.finish()
