"""The commit of a chunk: publishes its files, then creates its only marker.

This order makes a crash harmless at any instant. A part is published under a name that ends in its
own checksum; nothing refers to it yet. The marker is then created exclusively: of two attempts at
one chunk, one wins and the other finds the winner's marker. From then on every other file of the
chunk is an orphan, because no later marker can name it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from featurestore import layout
from featurestore.errors import CorruptStore
from featurestore.io.lazy import LazyObject, pack
from featurestore.io.storage import FileInfo, Storage, parquet_bytes
from featurestore.ledger import Ledger

MANIFEST_ROWS = 1024
# Marker files that are in memory at a time.
_FILES_AT_ONCE = 1024
# Markers whose times are compressed together.
_PACKED = 256
# `Marker.to_json` writes the times last, and only names at the top are indented by one space.
_TIMES = '\n "time": '


@dataclass(frozen=True, slots=True)
class Marker:
    """The content of one committed chunk and of its file ``markers/<chunk_id>.json``.

    Attributes:
      chunk_id: 32 hex digits.
      run_id: of the run that committed the chunk.
      first_key: the key of the first input; scans follow its order.
      part: file name below ``parts/``, or "" when the chunk has no rows.
      part_sha256: of the whole file.
      part_bytes: size of the file.
      quarantine: file name below ``quarantine/``, or "".
      quarantine_sha256: of the whole file.
      ledger: counts of the chunk's images.
      augmented: rows of views 1 and up, which the ledger does not count.
      numerics: how the features were computed.
      seconds: that the chunk took.
      source: uri, size and etag of the shard, when the chunk is a whole shard; otherwise empty.
      ignored: names of files in a shard that are not images.
      notes: what was left out of a shard and why; see `featurestore.ignored`.
      supersedes: keys whose rows and quarantined images from older runs no longer count.
      superseded: the counts of those rows and quarantined images, with their sum as images_in.
      damage: why the rest of a shard could not be read, or "".
      replaces: chunks whose commits no longer count, because a compaction merged them.
      origin: the chunk of another store that this one was derived from, or "".
      time: seconds per activity, see `pipelines.watching.timing`; empty in older stores.
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
    replaces: tuple[str, ...] = ()
    origin: str = ""
    time: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """The paths of the chunk's data files, relative to the store."""
        files = (("parts", self.part), ("quarantine", self.quarantine))
        return {f"{folder}/{name}" for folder, name in files if name}

    def to_json(self) -> str:
        """Returns the marker file's text."""
        record = dataclasses.asdict(dataclasses.replace(self, time={}))
        return json.dumps({**record, "time": dict(self.time)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Marker:
        """Reads a marker.

        Raises:
          CorruptStore: when the text is not a marker.
        """
        try:
            is_file = isinstance(text, bytes)
            text = text.decode() if isinstance(text, bytes) else text
            head, found, times = text.rstrip().rpartition(_TIMES)
            record = json.loads(head.rstrip().removesuffix(",") + "}" if found else text)
            if found:
                times = times.removesuffix("}").strip()
                # Texts in a manifest were checked before; there may be a million of them.
                has_times = json.loads(times) if is_file else times != "{}"
                record["time"] = LazyObject(times) if has_times else {}
            record["ledger"] = _ledger(**record["ledger"])
            record["source"] = record.get("source") or _NO_SOURCE
            given = record.get("superseded")
            record["superseded"] = Ledger(**given) if given and any(given.values()) else _NOTHING
            record["run_id"] = sys.intern(record["run_id"])
            record["numerics"] = _shared(record.get("numerics", {}))
            for name in ("ignored", "notes", "supersedes", "replaces"):
                record[name] = tuple(record.get(name, ()))
            return cls(**record)
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptStore(
                f"{where}: not a marker ({error}); delete it and run the extraction again, which "
                "restores the chunk"
            ) from error


# Equal values of many markers are one object, because a store may have a million of them.
_NOTHING = Ledger()
_NO_SOURCE: dict[str, Any] = {}
_NUMERICS: dict[str, Mapping[str, Any]] = {}


def _shared(numerics: Mapping[str, Any]) -> Mapping[str, Any]:
    return _NUMERICS.setdefault(repr(numerics), numerics)


@lru_cache(4096, typed=True)
def _ledger(**counts: int) -> Ledger:
    return Ledger(**counts)


def commit(storage: Storage, marker: Marker) -> Marker:
    """Commits a chunk whose files are published.

    An attempt that comes too late deletes its own files at once. The files of a crashed attempt are
    swept at the end of a run, with one listing for all chunks.

    Returns:
      The marker that counts: `marker`, or that of a faster attempt.
    """
    name = layout.marker_file(marker.chunk_id)
    if not storage.create(name, marker.to_json()):
        winner = Marker.from_json(storage.read(name), name)
        for path in marker.files - winner.files:
            storage.remove(path)
        return winner
    return marker


def committed(storage: Storage, chunk_id: str) -> Marker | None:
    """Returns a chunk's marker, or None when the chunk is not committed."""
    name = layout.marker_file(chunk_id)
    try:
        return Marker.from_json(storage.read(name), name)
    except FileNotFoundError:
        return None


def data_files(storage: Storage) -> Iterator[FileInfo]:
    """Yields all parts and quarantine files, in no order, with paths relative to the store."""
    for folder in layout.DATA_FOLDERS:
        for file in storage.walk(folder):
            yield dataclasses.replace(file, name=f"{folder}/{file.name}")


def commit_count(storage: Storage) -> int:
    """Counts the marker files."""
    return sum(1 for _ in marker_names(storage))


def marker_names(storage: Storage) -> Iterator[str]:
    """Yields the chunk ids that have a marker file, in no order."""
    for name in storage.names("markers"):
        if name.endswith(".json"):
            yield name.removesuffix(".json")


def marker_files(storage: Storage, chunk_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yields the path and content of marker files, of which a thousand are in memory at a time.

    Those that were deleted since they were listed are left out.
    """
    for start in range(0, len(chunk_ids), _FILES_AT_ONCE):
        some = [layout.marker_file(name) for name in chunk_ids[start : start + _FILES_AT_ONCE]]
        try:
            yield from storage.read_many(some).items()
        except FileNotFoundError:
            for path in filter(storage.exists, some):
                yield path, storage.read(path)


def read_markers(storage: Storage, replaced: bool = False) -> dict[str, Marker]:
    """Reads all commits of a store: the manifests, then the markers that are in none of them.

    Args:
      storage: of the store.
      replaced: whether to keep the commits that a compaction replaced.

    Returns:
      chunk_id -> marker, ordered by the chunks' first keys.

    Raises:
      CorruptStore: for a marker that cannot be read.
    """
    markers = read_manifests(storage)
    fresh = sorted(name for name in marker_names(storage) if name not in markers)
    for path, text in marker_files(storage, fresh):
        marker = Marker.from_json(text, path)
        markers[marker.chunk_id] = marker
    ordered = list((markers if replaced else without_replaced(markers)).values())
    markers.clear()
    ordered.sort(key=lambda marker: (marker.first_key, marker.chunk_id))
    return {marker.chunk_id: marker for marker in ordered}


def without_replaced(markers: dict[str, Marker]) -> dict[str, Marker]:
    """Returns the commits that no compaction has replaced."""
    gone = {name for marker in markers.values() for name in marker.replaces}
    if not gone:
        return markers
    return {name: marker for name, marker in markers.items() if name not in gone}


def manifest_names(storage: Storage) -> list[str]:
    """Returns the names of a store's manifests, which are those of the runs that wrote them."""
    suffix = ".parquet"
    names = (name for name in storage.names("manifest") if name.endswith(suffix))
    return sorted(name.removesuffix(suffix) for name in names)


def read_manifests(storage: Storage) -> dict[str, Marker]:
    """Returns the commits in a store's manifests: chunk_id -> marker; replaced ones too."""
    markers: dict[str, Marker] = {}
    for name in manifest_names(storage):
        path = layout.manifest_file(name)
        with storage.open_parquet(path) as manifest:
            for batch in manifest.iter_batches(MANIFEST_ROWS, columns=["marker"]):
                found = [Marker.from_json(text, path) for text in batch["marker"].to_pylist()]
                pack_times(found)
                markers.update((marker.chunk_id, marker) for marker in found)
    return markers


def pack_times(markers: Sequence[Marker]) -> None:
    """Compresses the times of markers, which are the largest part of them and seldom read."""
    for start in range(0, len(markers), _PACKED):
        times = (marker.time for marker in markers[start : start + _PACKED])
        pack(each for each in times if isinstance(each, LazyObject))


def manifested(storage: Storage, names: Iterable[str]) -> Iterator[str]:
    """Yields the chunks that the manifests of these names hold, without reading markers."""
    for name in names:
        with storage.open_parquet(layout.manifest_file(name)) as manifest:
            for batch in manifest.iter_batches(MANIFEST_ROWS, columns=["chunk_id"]):
                yield from batch["chunk_id"].to_pylist()


def write_manifest(storage: Storage, run_id: str, markers: Iterable[Marker]) -> None:
    """Copies markers that are in no manifest into a new one, which spares readers many files."""
    markers = list(markers)
    unknown = {marker.chunk_id for marker in markers}
    unknown.difference_update(manifested(storage, manifest_names(storage)))
    new = [marker for marker in markers if marker.chunk_id in unknown]
    if not new:
        return
    groups = (new[at : at + MANIFEST_ROWS] for at in range(0, len(new), MANIFEST_ROWS))
    storage.write(layout.manifest_file(run_id), parquet_bytes(map(_manifest_rows, groups)))


def _manifest_rows(markers: Sequence[Marker]) -> pa.Table:
    return pa.table(
        {
            "chunk_id": [marker.chunk_id for marker in markers],
            "part": [marker.part for marker in markers],
            "rows": [marker.ledger.rows for marker in markers],
            "marker": [marker.to_json() for marker in markers],
        }
    )
