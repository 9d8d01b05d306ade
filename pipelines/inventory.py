"""What a store holds already, and what that makes of each listed input.

An input is known by its key or by its address: so neither a folder that moved nor a second
``--input``, which prefixes the keys of the first, makes stored images new. Everything is kept as
digests; an image costs about 400 bytes of the driver's memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from classifier.inputs import ImageRef, ShardRef
from classifier.inputs.columns import unmarked
from featurestore.commit import Marker
from featurestore.errors import UsageError
from featurestore.lookup import entry
from featurestore.scan import ScanOptions
from featurestore.store import FeatureStore
from featurestore.urls import connect
from featurestore.visibility import Visibility

_COLUMNS = ("key", "uri", "size", "etag")


def digest(*parts: str | int) -> bytes:
    """Returns 16 bytes that stand for the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An input to extract, and what the store holds of it.

    Attributes:
      ref: the image or the shard.
      replaces: what counts under its key until now: ``row``, ``quarantined`` or "" for nothing. A
        shard that replaces ``quarantined`` is read for its quarantined images only.
      replaces_run: the run that wrote that.
      known: whether its very content may be stored, under this key or another.
    """

    ref: ImageRef | ShardRef
    replaces: str = ""
    replaces_run: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What is stored under one key.

    Attributes:
      kind: ``row``, ``quarantined``, ``unreadable`` (quarantined for its reading) or ``shard``.
      version: digest of size and etag.
      address: digest of the uri.
      run_id: that wrote it.
    """

    kind: str
    version: bytes
    address: bytes
    run_id: str


@dataclass
class Inventory:
    """The inputs that a store accounts for.

    Attributes:
      retry: whether quarantined images are wanted again.
      held: digest of the key -> what is stored under it.
      addresses: digests of (uri, size, etag) of what is stored.
      by_columns: digest of a shard's key -> its version, whatever columns it was read by.
      contents: digests of (size, etag) of rows: a new key with one of them was renamed or copied.
      listed: digests of the keys and addresses that a listing named, for pruning.
      moved: inputs whose key is stored with another address, as far as decided on.
    """

    retry: bool = False
    held: dict[bytes, Held] = field(default_factory=dict)
    addresses: set[bytes] = field(default_factory=set)
    by_columns: dict[bytes, bytes] = field(default_factory=dict)
    contents: set[bytes] = field(default_factory=set)
    listed: set[bytes] = field(default_factory=set)
    moved: list[ImageRef | ShardRef] = field(default_factory=list)

    @classmethod
    def read(cls, store: FeatureStore, retry: bool = False) -> Inventory:
        """Reads it off the rows and the quarantine of a store, as they count today."""
        result = cls(retry)
        for marker, kind, rows in live_inputs(store):
            if not marker.source:
                for row in rows:
                    result._hold(kind, row, marker.run_id)
            elif kind != "row" and rows:
                # A shard with a quarantined image is wanted again by a retry.
                result.held[digest("bad shard", marker.source["key"])] = Held(kind, b"", b"", "")
        for marker in store.markers().values():
            if marker.source and marker.source.get("complete", True):
                source = tuple(marker.source[name] for name in _COLUMNS)
                result._hold("shard", source, marker.run_id)
        return result

    def _hold(self, kind: str, row: tuple, run_id: str) -> None:
        key, uri, size, etag = row
        held = self.held.get(digest(key))
        if held is None or held.run_id <= run_id:
            self.held[digest(key)] = Held(kind, digest(size, etag), digest(uri), run_id)
            if kind == "shard":
                self.by_columns[digest(key)] = digest(size, unmarked(etag))
                self.addresses.add(digest(uri, size, unmarked(etag)))
        self.addresses.add(digest(uri, size, etag))
        if kind == "row":
            self.contents.add(digest(size, etag))

    def decide(self, ref: ImageRef | ShardRef) -> Wanted | None:
        """Says what is to be done with a listed input.

        Returns:
          None for what is stored or was listed before; else the input with what it replaces, and
          whether its content may be stored already.
        """
        key, address = digest(ref.key), digest(ref.uri, ref.size, ref.etag)
        if key in self.listed:
            return None
        self.listed.update((key, digest(ref.uri)))
        held, is_image = self.held.get(key), isinstance(ref, ImageRef)
        if held is None:
            if address in self.addresses:
                return None
            return Wanted(ref, known=is_image and digest(ref.size, ref.etag) in self.contents)
        kind = "row" if held.kind in ("row", "shard") else "quarantined"
        moved = held.address != digest(ref.uri)
        if moved:
            self.moved.append(ref)
        version = digest(ref.size, ref.etag)
        # A shard that is listed without naming columns stays as it was read.
        if moved or version not in (held.version, self.by_columns.get(key)):
            # A file that was only touched or moved holds what it held.
            return Wanted(ref, kind, held.run_id, known=is_image and kind == "row")
        again = kind == "quarantined" or digest("bad shard", ref.key) in self.held
        # What could not be read may be readable now: permissions and networks are mended outside.
        if held.kind == "unreadable" or (self.retry and again):
            return Wanted(ref, "quarantined", held.run_id)
        return None

    def is_listed(self, key: str, uri: str) -> bool:
        """Whether the listing that was decided on named this input."""
        return digest(key) in self.listed or digest(uri) in self.listed


def live_inputs(store: FeatureStore) -> Iterator[tuple[Marker, str, list[tuple]]]:
    """Yields what counts in a store, commit by commit.

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
    """Returns ``row`` or ``quarantined`` for a kind of `live_inputs`."""
    return "row" if kind == "row" else "quarantined"


def held_by_shard(store: FeatureStore, shard_key: str) -> dict[str, str]:
    """Returns what counts of a shard's images: key -> ``row`` or ``quarantined``."""
    held: dict[str, str] = {}
    for marker, kind, rows in live_inputs(store):
        if marker.source and marker.source["key"] == shard_key:
            held.update((row[0], counted_as(kind)) for row in rows)
    return held


def keys_of(store: FeatureStore, marker: Marker) -> Iterator[str]:
    """Yields the keys of a commit's rows and quarantined images, whether they count or not."""
    for folder, name in (("parts", marker.part), ("quarantine", marker.quarantine)):
        if name:
            with store.storage.open_parquet(f"{folder}/{name}") as file:
                yield from file.read(columns=["key"])["key"].to_pylist()


def gone_inputs(store: FeatureStore, inventory: Inventory) -> dict[str, str]:
    """Returns what a complete listing no longer named: key -> ``row`` or ``quarantined``."""
    gone: dict[str, str] = {}
    for marker, kind, rows in live_inputs(store):
        source = marker.source
        if source and inventory.is_listed(source["key"], source["uri"]):
            continue
        missing = (key for key, uri, *_ in rows if not inventory.is_listed(key, uri))
        gone.update((key, counted_as(kind)) for key in missing)
    return gone


def require_moved(store: FeatureStore, inventory: Inventory, options: Mapping[str, Any]) -> None:
    """Refuses inputs that merely have the keys of other images, which are still where they were.

    A folder that moved keeps its keys, and is welcome. Another folder with the same names below it
    would take the place of the stored images.

    Args:
      store: that holds the keys.
      inventory: that decided on the inputs.
      options: for the inputs' file systems.

    Raises:
      UsageError: naming one such input.
    """
    clashing = {ref.key: ref for ref in inventory.moved}
    for marker, _, rows in live_inputs(store) if clashing else ():
        places = [(marker.source["key"], marker.source["uri"])] if marker.source else []
        for key, uri in [*places, *((row[0], row[1]) for row in rows)]:
            if key not in clashing:
                continue
            if not _is_elsewhere(uri, clashing[key].uri, options):
                return
            raise UsageError(
                f"--input: {clashing[key].uri!r} has the key {key!r} of {uri!r}, which is stored "
                "already and still there; give both folders in one command, which tells their "
                "keys apart, or choose another --output"
            )


def _is_elsewhere(stored: str, listed: str, options: Mapping[str, Any]) -> bool:
    """Whether the stored address still leads to a file, and to another one than the listed."""
    fs, path = connect(stored, options)
    if entry(fs, path) is None:
        return False
    local = isinstance(fs, LocalFileSystem) and listed.startswith("file://")
    return not (local and os.path.samefile(path, listed.removeprefix("file://")))
