"""A cache of decoded embeddings in a local store, so that a second training starts at once.

Decoding compressed embeddings takes as long as fitting a head. So the first reader that wants a
cache saves each decoded part as an Arrow file, whose name follows from the part's checksum. A
growing store adds files, and readers skip superseded rows as they do in parts. Maps need no cache,
because parts hold them in their form in memory.

Nothing depends on the cache. You may delete it at any time, even while it is read: a missing file
is made again, and if that fails the part itself is read.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.commit import Marker
from featurestore.errors import CorruptStore
from featurestore.io.drafts import draft_name, is_dead_draft
from featurestore.io.storage import FileInfo, Storage
from featurestore.layout import wrong_checksum
from featurestore.schema import decode_columns, row_schema
from featurestore.spec import StoreSpec
from featurestore.units import parse_size

FOLDER = "cache"
VARIABLE = "HOARFROST_CACHE"
AUTO, OFF = "auto", "off"
AUTO_BYTES = 20 << 30
FORMAT = "1"


def parse_limit(text: str) -> int | None:
    """Reads the size limit of the cache, the value of ``--cache``.

    Args:
      text: ``auto``, ``off``, or a size such as ``500MB`` or ``20G``, in powers of 1,024.

    Returns:
      The limit in bytes, 0 for ``off``, None for ``auto``.

    Raises:
      UsageError: for any other text.

    Example:
      >>> [parse_limit(text) for text in ("auto", "off", "1.5GB", "512")]
      [None, 0, 1610612736, 512]
    """
    if text == AUTO:
        return None
    return 0 if text == OFF else parse_size(text, "--cache", "auto, off or a size")


def cache_usage(storage: Storage) -> tuple[int, int]:
    """Returns the (files, bytes) of a store's cache; a remote store has no cache."""
    files = storage.list(FOLDER) if storage.is_local else []
    return len(files), sum(file.size for file in files)


class DecodedCache:
    """The decoded parts of one local store, limited in size.

    Attributes:
      made_bytes: total size of the files that this object has made.
    """

    def __init__(self, storage: Storage, spec: StoreSpec, limit: int | None = None) -> None:
        """Opens the existing cache and trims it to the limit.

        Args:
          storage: the store's folder, local.
          spec: of the store, which holds embeddings.
          limit: in bytes; None for 20 GiB or half of the free disk, whichever is less.
        """
        self._storage, self._spec = storage, spec
        self._folder = f"{FOLDER}/{spec.identity_hash}"
        self._lock = threading.Lock()
        self._opened: set[str] = set()
        self._writable = True
        self.made_bytes = 0
        self._sweep_drafts()
        self._promised = 0
        self._used = sum(file.size for file in self._published())
        if limit is None:
            free = shutil.disk_usage(storage.path("")).free
            limit = min(AUTO_BYTES, (free + self._used) // 2)
        self._limit = limit
        self._reserve(0)

    def __reduce__(self) -> tuple[type[DecodedCache], tuple[Storage, StoreSpec, int]]:
        # Another process has a lock and an account of its own.
        return DecodedCache, (self._storage, self._spec, self._limit)

    def open(self, marker: Marker, make: bool = True) -> CachedPart | None:
        """Opens a decoded part.

        Args:
          marker: of the part.
          make: whether to decode the part now if it is not in the cache.

        Returns:
          The part, or None when it is not in the cache and must not or cannot be added, such as for
          lack of room or permission.

        Raises:
          CorruptStore: when the part contradicts its marker.
        """
        name = f"{self._folder}/{marker.part.removesuffix('.parquet')}.arrow"
        with self._lock:
            self._opened.add(name)
        found = self._load(name, marker)
        if found or not (make and self._writable):
            return found
        return self._load(name, marker) if self._make(name, marker) else None

    def _load(self, name: str, marker: Marker) -> CachedPart | None:
        path = self._storage.path(name)
        try:
            part = CachedPart(path, self._spec, _facts(marker))
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError, CorruptStore):
            # A foreign file, or one of another format, which a new copy will replace.
            return None
        with suppress(OSError):
            os.utime(path)
        return part

    def _make(self, name: str, marker: Marker) -> bool:
        """Decodes a part into a file of the cache; returns whether there was room for it."""
        part = f"parts/{marker.part}"
        with self._storage.open_parquet(part) as file:
            groups = range(file.num_row_groups)
            needed = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            if not self._reserve(needed):
                return False
            source = Path(self._storage.path(part))
            if damage := wrong_checksum(source, marker.part, marker.part_sha256):
                raise CorruptStore(
                    f"{source}: {damage}; python -m featurestore verify says what to do"
                )
            try:
                size = self._write(name, file, _facts(marker), needed)
            except OSError:
                # The cache is read-only, full or deleted: from now on the parts are read.
                self._writable = False
                size = 0
        with self._lock:
            self._promised -= max(size, needed) if size else needed
            self._used -= needed - min(size, needed)
            self.made_bytes += size
        return bool(size)

    def _write(self, name: str, part: pq.ParquetFile, facts: dict[str, str], reserved: int) -> int:
        """Writes a decoded copy to a draft and publishes it.

        Returns:
          The size of the copy, all of it reserved; 0 when the copy is too large.
        """
        folder = Path(self._storage.path(self._folder))
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / draft_name()
        schema = row_schema(self._spec).with_metadata(facts)
        try:
            with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for group in range(part.num_row_groups):
                    table = part.read_row_group(group, schema.names, use_threads=False)
                    table = table.combine_chunks().replace_schema_metadata(schema.metadata)
                    writer.write_table(table)
            size = draft.stat().st_size
            if size > reserved and not self._reserve(size - reserved):
                return 0
            self._storage.publish(draft, name)
            return size
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _reserve(self, needed: int) -> bool:
        """Reserves room; deletes the least recently used files that this object has not opened."""
        with self._lock:
            if self._used + needed > self._limit:
                files = self._published()
                self._used = self._promised + sum(file.size for file in files)
                for file in sorted(files, key=lambda file: file.modified or 0.0):
                    if self._used + needed <= self._limit:
                        break
                    if (name := f"{FOLDER}/{file.name}") not in self._opened:
                        with suppress(OSError):
                            self._storage.remove(name)
                            self._used -= file.size
            if self._used + needed > self._limit:
                return False
            self._used += needed
            self._promised += needed
            return True

    def _published(self) -> list[FileInfo]:
        return [file for file in self._storage.list(FOLDER) if file.name.endswith(".arrow")]

    def _sweep_drafts(self) -> None:
        for file in self._storage.list(FOLDER):
            if is_dead_draft(file.name.rsplit("/", 1)[-1]):
                with suppress(OSError):
                    self._storage.remove(f"{FOLDER}/{file.name}")


class CachedPart:
    """A decoded part that is mapped into memory, so that reading copies nothing."""

    def __init__(self, path: str, spec: StoreSpec, facts: dict[str, str]) -> None:
        """Maps a file of the cache.

        Raises:
          FileNotFoundError: when the file is absent.
          CorruptStore: when the file is not a decoded copy of this part.
        """
        self._spec = spec
        with pa.memory_map(path) as source:
            reader = pa.ipc.open_file(source)
            metadata = reader.schema.metadata or {}
            count = range(reader.num_record_batches)
            self._batches = [reader.get_batch(number) for number in count]
        written = {key.decode(): value.decode() for key, value in metadata.items()}
        if written != facts or not reader.schema.equals(row_schema(spec)):
            raise CorruptStore(f"{path} is not a decoded copy of {facts['part']}")
        for batch in self._batches:
            batch.validate()

    @property
    def groups(self) -> int:
        """The number of row groups."""
        return len(self._batches)

    def table(self, group: int, names: Iterable[str]) -> pa.Table:
        """Returns the given columns of a row group."""
        return pa.Table.from_batches([self._batches[group].select(list(names))])

    def features(self, group: int) -> np.ndarray:
        """Returns a row group's features, read-only."""
        return decode_columns(self._batches[group], self._spec)

    def expect(self, group: int) -> None:
        """Does nothing: the system reads a mapped file ahead by itself."""


def _facts(marker: Marker) -> dict[str, str]:
    """Returns the metadata of a part's file in the cache."""
    return {
        "hoarfrost_cache": FORMAT,
        "part": marker.part,
        "sha256": marker.part_sha256,
        "rows": str(marker.ledger.rows),
    }
