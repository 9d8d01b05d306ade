"""What a store holds, and so which listed inputs a run has to extract.

An input is recognised by its key or by its address. So a stored image is not new because its folder
moved, or because a second ``--input`` prefixes its key. The records of a shard count one by one: a
slice of a shard is new if no other slice of the same file stored its records.
The driver keeps digests only, about 400 bytes of memory per image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from classifier.inputs import ImageRef, ShardRef
from classifier.inputs.columns import unmarked
from classifier.inputs.records import (
    WHOLE,
    Ranges,
    file_etag,
    records_of,
    union,
    with_records,
    without,
)
from featurestore.commit import Marker
from featurestore.errors import UsageError
from featurestore.reading.scan import ScanOptions
from featurestore.reading.visibility import Visibility
from featurestore.store import FeatureStore
from pipelines.planning.storedshards import stored_shards

_COLUMNS = ("key", "uri", "size", "etag")


def digest(*parts: str | int) -> bytes:
    """Returns 16 bytes that stand for the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An input to extract, and what the store holds of it.

    Attributes:
      ref: the image or the shard.
      replaces: what its key stands for until now: ``row``, ``quarantined`` or "" for nothing. Of a
        shard that replaces ``quarantined``, only the quarantined images are extracted.
      replaces_run: the run that wrote what is replaced.
      known: whether the same content may be stored, under this key or another.
    """

    ref: ImageRef | ShardRef
    replaces: str = ""
    replaces_run: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored under one key.

    Attributes:
      kind: ``row``, ``quarantined``, ``unreadable`` (quarantined because it could not be read) or
        ``shard``.
      version: digest of the file's size and etag.
      address: digest of the uri.
      run_id: the run that wrote it.
    """

    kind: str
    version: bytes
    address: bytes
    run_id: str


@dataclass
class Inventory:
    """The inputs that a store accounts for.

    Attributes:
      retry: whether quarantined images are extracted again.
      stored: digest of a key -> what is stored under it.
      addresses: digests of the (uri, size, etag) of each stored image.
      by_columns: digest of a shard's key -> its version, whatever columns it was read by.
      records: digest of a shard's (uri, size, etag) -> its records that are stored.
      contents: digests of the (size, etag) of rows; a new key with one of them is a copy, perhaps.
      listed: digests of the keys and addresses that the listing named.
      shards: digest of a shard's key or address -> the shard, with all records that were listed.
      moved: digest of a key -> its listed address, where that is not the stored one.
    """

    retry: bool = False
    stored: dict[bytes, Stored] = field(default_factory=dict)
    addresses: set[bytes] = field(default_factory=set)
    by_columns: dict[bytes, bytes] = field(default_factory=dict)
    records: dict[bytes, Ranges] = field(default_factory=dict)
    contents: set[bytes] = field(default_factory=set)
    listed: set[bytes] = field(default_factory=set)
    shards: dict[bytes, ShardRef] = field(default_factory=dict)
    moved: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def read(cls, store: FeatureStore, retry: bool = False) -> Inventory:
        """Reads the rows and the quarantine of a store, without those that were superseded."""
        result = cls(retry)
        for marker, kind, rows in visible_inputs(store):
            if not marker.source:
                for row in rows:
                    result._add(kind, row, marker.run_id)
            elif kind != "row" and rows:
                # A retry reads a shard with a quarantined image again.
                result.stored[digest("bad shard", marker.source["key"])] = Stored(
                    kind, b"", b"", ""
                )
        for key, shard in stored_shards(store.markers().values()).items():
            result._add("shard", (key, *shard.file), shard.run_id)
            uri, size, etag = shard.file
            result.by_columns[digest(key)] = digest(size, unmarked(etag))
            # If the listing names no columns, the shard stays as it was read.
            for version in {etag, unmarked(etag)}:
                address = digest(uri, size, version)
                result.records[address] = union(result.records.get(address, ()), shard.records)
        return result

    def _add(self, kind: str, row: tuple, run_id: str) -> None:
        key, uri, size, etag = row
        stored = self.stored.get(digest(key))
        if stored is None or stored.run_id <= run_id:
            self.stored[digest(key)] = Stored(kind, digest(size, etag), digest(uri), run_id)
        if kind != "shard":
            self.addresses.add(digest(uri, size, etag))
        if kind == "row":
            self.contents.add(digest(size, etag))

    def see(self, ref: ImageRef | ShardRef) -> ImageRef | ShardRef | None:
        """Notes that an input was listed.

        Returns:
          The input; of a shard, the records that were not listed before. None when nothing is left.

        Raises:
          UsageError: when another image or shard was listed under its key.
        """
        # The address of an image that cannot be read may be shortened; its etag distinguishes it.
        lost = isinstance(ref, ImageRef) and ref.problem
        key, address = digest(ref.key), digest(ref.uri, ref.etag) if lost else digest(ref.uri)
        if key in self.listed and address not in self.listed:
            raise UsageError(
                f"--input: {ref.uri!r} has the key {ref.key!r} of another image of this command; "
                "keys are paths below an --input, so rename one of the two, or move it into a "
                "folder of another name"
            )
        is_fresh = address not in self.listed
        self.listed.update((key, address))
        if isinstance(ref, ImageRef):
            return ref if is_fresh else None
        before = self.shards.get(address)
        known, records = records_of(before.etag) if before else (), records_of(ref.etag)
        self.shards[key] = self.shards[address] = with_records(ref, union(known, records))
        fresh = without(records, known)
        return with_records(ref, fresh) if fresh else None

    def decide(self, ref: ImageRef | ShardRef) -> Wanted | None:
        """Decides what is to be done with an input that `see` returned.

        Returns:
          None if it is stored; else the input, or its records that are not stored, with what it
          replaces and whether its content may be stored already.
        """
        held, is_image = self.stored.get(digest(ref.key)), isinstance(ref, ImageRef)
        version = digest(ref.size, file_etag(ref.etag))
        kind = "row" if held and held.kind in ("row", "shard") else "quarantined"
        if held:
            moved = held.address != digest(ref.uri)
            if moved:
                self.moved[digest(ref.key)] = ref.uri
            if moved or version not in (held.version, self.by_columns.get(digest(ref.key))):
                # The content may be unchanged: the file was perhaps only touched or moved.
                return Wanted(ref, kind, held.run_id, known=is_image and kind == "row")
        again = held is not None and self._is_wanted_again(ref, held)
        missing = self._missing(ref)
        if not missing:
            return Wanted(ref, "quarantined", held.run_id) if held and again else None
        if held is None:
            known = is_image and version in self.contents
            return Wanted(_part(ref, missing), known=known)
        return Wanted(ref if again else _part(ref, missing), kind, held.run_id)

    def _missing(self, ref: ImageRef | ShardRef) -> Ranges:
        """Returns the records of an input that are not stored; an image is one whole record."""
        address = digest(ref.uri, ref.size, file_etag(ref.etag))
        if isinstance(ref, ImageRef):
            return () if address in self.addresses else WHOLE
        return without(records_of(ref.etag), self.records.get(address, ()))

    def _is_wanted_again(self, ref: ImageRef | ShardRef, held: Stored) -> bool:
        """Whether the quarantined images under a key are to be read once more."""
        # An unreadable image may be readable now: permissions and networks change.
        is_bad = held.kind == "quarantined" or digest("bad shard", ref.key) in self.stored
        return held.kind == "unreadable" or (self.retry and is_bad)

    def is_listed(self, key: str, uri: str) -> bool:
        """Whether the listing named this input."""
        return digest(key) in self.listed or digest(uri) in self.listed


def _part(ref: ImageRef | ShardRef, records: Ranges) -> ImageRef | ShardRef:
    return ref if isinstance(ref, ImageRef) else with_records(ref, records)


def visible_inputs(store: FeatureStore) -> Iterator[tuple[Marker, str, list[tuple]]]:
    """Yields the images of a store that were not superseded, commit by commit.

    Yields:
      (commit, ``row``, ``quarantined`` or ``unreadable``, (key, uri, size, etag) of some images).
    """
    markers = list(store.markers().values())
    visibility = Visibility.of(markers)
    scanner, options = store.scanner(markers), ScanOptions(_COLUMNS, views=(0,))
    for marker in markers:
        for batch in scanner.scan([marker], options):
            columns = (batch[name].tolist() for name in _COLUMNS)
            yield marker, "row", list(zip(*columns, strict=True))
        if marker.quarantine:
            with store.storage.open_parquet(f"quarantine/{marker.quarantine}") as file:
                rows = file.read(columns=[*_COLUMNS, "kind"]).to_pylist()
            shown = visibility.shows((row["key"] for row in rows), marker.run_id)
            kept = [row for row, show in zip(rows, shown, strict=True) if show]
            for kind, match in (("unreadable", True), ("quarantined", False)):
                some = [row for row in kept if (row["kind"] == "unreadable") is match]
                yield marker, kind, [tuple(row[name] for name in _COLUMNS) for row in some]


def counted_as(kind: str) -> str:
    """Returns ``row`` or ``quarantined`` for a kind of `visible_inputs`."""
    return "row" if kind == "row" else "quarantined"


def images_of_shard(store: FeatureStore, shard_key: str) -> dict[str, str]:
    """Returns a shard's images that were not superseded: key -> ``row`` or ``quarantined``."""
    held: dict[str, str] = {}
    for marker, kind, rows in visible_inputs(store):
        if marker.source and marker.source["key"] == shard_key:
            held.update((row[0], counted_as(kind)) for row in rows)
    return held


def committed_keys(store: FeatureStore, marker: Marker) -> Iterator[str]:
    """Yields the keys of a commit's rows and quarantined images, superseded ones too."""
    for folder, name in (("parts", marker.part), ("quarantine", marker.quarantine)):
        if name:
            with store.storage.open_parquet(f"{folder}/{name}") as file:
                yield from file.read(columns=["key"])["key"].to_pylist()
