"""The commit of a chunk: publish its files, then one marker, of which exactly one can exist.

Order makes it safe to die at any instant. A part is published under a name that ends in its own
checksum; nothing refers to it yet. Then the marker is created, exclusively: of two attempts at one
chunk one wins, the other finds the winner's marker. From then on every other file of the chunk is
an orphan for certain, because no later marker can name it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import layout
from featurestore.errors import CorruptStore
from featurestore.io.storage import Storage
from featurestore.layout import HashedName
from featurestore.ledger import Ledger
from featurestore.writer import Written

# A file without a marker this old belongs to a run that died: publishing takes milliseconds.
ORPHAN_AGE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Marker:
    """What one committed chunk holds; the content of ``markers/<chunk_id>.json``.

    Attributes:
      chunk_id: 32 hex digits.
      run_id: of the run that committed it.
      first_key: of its inputs in order; scans go by it.
      part: file name below ``parts/``, or "" when no image gave a row.
      part_sha256: of the whole file.
      part_bytes: its size.
      quarantine: file name below ``quarantine/``, or "".
      quarantine_sha256: of the whole file.
      ledger: the counts.
      augmented: rows of views 1 and up, besides those that the ledger counts.
      numerics: how the features were computed.
      seconds: the chunk took.
      source: for a chunk that is a whole shard, its uri, size and etag; else empty.
      ignored: names of files that are no images, inside a shard.
      notes: what was left out of a shard and why, as in `featurestore.ignored`.
      supersedes: keys whose rows and quarantined images of older runs no longer count.
      superseded: what those were: rows and quarantined images, and their sum as images_in.
      damage: why the rest of a shard could not be read, or "".
      time: where the chunk's time went, see `pipelines.watching.timing`; empty in older stores.
    """

    chunk_id: str
    run_id: str
    first_key: str
    part: str = ""
    part_sha256: str = ""
    part_bytes: int = 0
    quarantine: str = ""
    quarantine_sha256: str = ""
    ledger: Ledger = field(default_factory=Ledger)
    augmented: int = 0
    numerics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    source: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[Mapping[str, Any], ...] = ()
    supersedes: tuple[str, ...] = ()
    superseded: Ledger = field(default_factory=Ledger)
    damage: str = ""
    time: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the marker file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Marker:
        """Reads a marker.

        Raises:
          CorruptStore: when the text is not one.
        """
        try:
            record = json.loads(text)
            record["ledger"] = Ledger(**record["ledger"])
            record["superseded"] = Ledger(**record.get("superseded", {}))
            for name in ("ignored", "notes", "supersedes"):
                record[name] = tuple(record.get(name, ()))
            return cls(**record)
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptStore(
                f"{where}: not a marker ({error}); delete it and run the extraction again, which "
                "makes the chunk anew"
            ) from error


def publish(storage: Storage, chunk_id: str, written: Written, folder: str) -> str:
    """Publishes a finished file under its content's name.

    Args:
      folder: ``parts`` or ``quarantine``.

    Returns:
      The file name below `folder`.
    """
    name = str(HashedName(chunk_id, written.sha256[:16]))
    storage.publish(written.path, f"{folder}/{name}")
    return name


def commit(storage: Storage, marker: Marker) -> Marker:
    """Commits a chunk whose files are published.

    The files of an attempt that comes too late are removed at once; those of one that died are
    swept when the run ends, in one listing for all chunks.

    Returns:
      The marker that counts: `marker`, or the one of another attempt that was faster.
    """
    name = layout.marker_file(marker.chunk_id)
    if not storage.create(name, marker.to_json()):
        winner = Marker.from_json(storage.read(name), name)
        _remove_losers(storage, marker, winner)
        return winner
    return marker


def committed(storage: Storage, chunk_id: str) -> Marker | None:
    """Returns the marker of a chunk, or None when it is not committed."""
    name = layout.marker_file(chunk_id)
    try:
        return Marker.from_json(storage.read(name), name)
    except FileNotFoundError:
        return None


def _remove_losers(storage: Storage, loser: Marker, winner: Marker) -> None:
    for path in _files_of(loser) - _files_of(winner):
        storage.remove(path)


def _files_of(marker: Marker) -> set[str]:
    """Returns the paths of a commit's data files."""
    files = (("parts", marker.part), ("quarantine", marker.quarantine))
    return {f"{folder}/{name}" for folder, name in files if name}


def find_orphans(storage: Storage, markers: Mapping[str, Marker]) -> dict[str, float | None]:
    """Lists the data files that no marker names.

    Returns:
      Path relative to the store -> modification time in seconds, None where unknown.
    """
    named = set().union(*map(_files_of, markers.values()))
    orphans = {}
    for folder in ("parts", "quarantine"):
        for file in storage.list(folder):
            if f"{folder}/{file.name}" not in named:
                orphans[f"{folder}/{file.name}"] = file.modified
    return orphans


def sweep_store(storage: Storage, now: float) -> list[str]:
    """Deletes what died with earlier runs: orphans of committed chunks, and any other a day old.

    Nothing is deleted on the word of a listing alone: each orphan's own marker is asked for, and
    where files are but not one marker, the markers are missing and not the files superfluous.

    Args:
      now: seconds since the epoch.

    Returns:
      The paths removed.
    """
    # Files first, markers second: a chunk committed in between is then seen as committed.
    candidates = {
        f"{folder}/{file.name}": file.modified
        for folder in ("parts", "quarantine")
        for file in storage.list(folder)
    }
    markers = read_markers(storage)
    if not markers:
        return []
    orphans = find_orphans(storage, markers)
    removed = []
    for path in candidates.keys() & orphans.keys():
        name = HashedName.parse(path.rsplit("/", 1)[-1])
        modified = candidates[path]
        old = modified is not None and now - modified > ORPHAN_AGE_SECONDS
        if not old and not (name and name.chunk_id in markers):
            continue
        marker = committed(storage, name.chunk_id) if name else None
        if marker is None or path not in _files_of(marker):
            storage.remove(path)
            removed.append(path)
    return sorted(removed)


def read_markers(storage: Storage) -> dict[str, Marker]:
    """Reads every commit of a store: from the manifests, then the markers newer than those.

    Returns:
      chunk_id -> marker, ordered by the chunks' first keys.

    Raises:
      CorruptStore: for a marker that cannot be read.
    """
    markers = _read_manifests(storage)
    names = [file.name for file in storage.list("markers") if file.name.endswith(".json")]
    fresh = [f"markers/{name}" for name in names if name.removesuffix(".json") not in markers]
    for path, text in storage.read_many(fresh).items():
        marker = Marker.from_json(text, path)
        markers[marker.chunk_id] = marker
    ordered = sorted(markers.values(), key=lambda marker: (marker.first_key, marker.chunk_id))
    return {marker.chunk_id: marker for marker in ordered}


def _read_manifests(storage: Storage) -> dict[str, Marker]:
    markers: dict[str, Marker] = {}
    for file in storage.list("manifest"):
        if file.name.endswith(".parquet"):
            with storage.open_parquet(f"manifest/{file.name}") as manifest:
                texts = manifest.read(columns=["marker"])["marker"].to_pylist()
            for text in texts:
                marker = Marker.from_json(text, f"manifest/{file.name}")
                markers[marker.chunk_id] = marker
    return markers


def write_manifest(storage: Storage, run_id: str, markers: Iterable[Marker]) -> None:
    """Folds the markers that are in no manifest yet into one file, which readers open instead."""
    folded = _read_manifests(storage)
    markers = [marker for marker in markers if marker.chunk_id not in folded]
    if not markers:
        return
    table = pa.table(
        {
            "chunk_id": [marker.chunk_id for marker in markers],
            "part": [marker.part for marker in markers],
            "rows": [marker.ledger.rows for marker in markers],
            "marker": [marker.to_json() for marker in markers],
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write(layout.manifest_file(run_id), sink.getvalue().to_pybytes())
