"""Decoded embeddings beside a local store, mapped into memory: a second training starts at once.

Compressed embeddings take as long to decode as a head takes to fit. So the first reader that asks
for it keeps each part decoded, as an Arrow file named by the part and so by the part's checksum: a
store that grows adds files, and what newer commits supersede is left out on reading, as it is of
parts. Maps are stored as they lie in memory and need no copy.

Nothing depends on the cache. It may be deleted at any time, also while it is read; a file that is
missing is made again, and where it cannot be made the part itself is read.
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

from featurestore.checksums import wrong_checksum
from featurestore.commit import Marker
from featurestore.errors import CorruptStore
from featurestore.io.storage import FileInfo, Storage, draft_name, is_dead_draft
from featurestore.schema import FEATURES, decode_features, row_schema
from featurestore.spec import StoreSpec
from featurestore.units import parse_size

FOLDER = "cache"
VARIABLE = "HOARFROST_CACHE"
AUTO, OFF = "auto", "off"
AUTO_BYTES = 20 << 30
FORMAT = "1"


def parse_limit(text: str, flag: str = "--cache") -> int | None:
    """Reads a bound of the cache.

    Args:
      text: ``auto``, ``off``, or a size such as ``500MB`` or ``20G``, in powers of 1,024.
      flag: where it was given.

    Returns:
      Bytes, 0 for none at all, None for auto.

    Raises:
      UsageError: for anything else.

    Example:
      >>> [parse_limit(text) for text in ("auto", "off", "1.5GB", "512")]
      [None, 0, 1610612736, 512]
    """
    if text == AUTO:
        return None
    return 0 if text == OFF else parse_size(text, flag, "auto, off or a size")


def cache_usage(storage: Storage) -> tuple[int, int]:
    """Returns (files, bytes) of a store's cache; a remote store has none."""
    files = storage.list(FOLDER) if storage.is_local else []
    return len(files), sum(file.size for file in files)


class DecodedCache:
    """The decoded parts of one local store, bounded in size.

    Attributes:
      made_bytes: in files made by this object.
    """

    def __init__(self, storage: Storage, spec: StoreSpec, limit: int | None = None) -> None:
        """Looks at what is there, and trims it to the bound.

        Args:
          storage: the store's folder, local.
          spec: of the store, which holds embeddings.
          limit: bytes at most; None for 20 GiB or half of the free disk, whichever is less.
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

    def open(self, marker: Marker, make: bool = True) -> CachedPart | None:
        """Opens a part decoded.

        Args:
          marker: of the part.
          make: whether to decode it now if it is not there.

        Returns:
          The part, or None when it is not cached and is not to be, or cannot be: no room, no
          permission.

        Raises:
          CorruptStore: when the part is not what its marker says.
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
            # Not ours, or of another format: it is made anew in its place.
            return None
        with suppress(OSError):
            os.utime(path)
        return part

    def _make(self, name: str, marker: Marker) -> bool:
        """Decodes a part into a file of the cache; False when there is no place for it."""
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
                # Read-only, full or deleted: the parts themselves will do, this one and the rest.
                self._writable = False
                size = 0
        with self._lock:
            self._promised -= max(size, needed) if size else needed
            self._used -= needed - min(size, needed)
            self.made_bytes += size
        return bool(size)

    def _write(self, name: str, part: pq.ParquetFile, facts: dict[str, str], reserved: int) -> int:
        """Writes a decoded copy aside and puts it in its place.

        Returns:
          Its bytes, all of them reserved; 0 when it turned out too large.
        """
        folder = Path(self._storage.path(self._folder))
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / draft_name()
        schema = row_schema(self._spec).with_metadata(facts)
        try:
            with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for group in range(part.num_row_groups):
                    table = part.read_row_group(group, use_threads=False).combine_chunks()
                    writer.write_table(table.replace_schema_metadata(schema.metadata))
            size = draft.stat().st_size
            if size > reserved and not self._reserve(size - reserved):
                return 0
            self._storage.publish(draft, name)
            return size
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _reserve(self, needed: int) -> bool:
        """Makes room by deleting what was used longest ago, but nothing that is in use here."""
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
    """A decoded part, mapped into memory: nothing is copied, nothing is decoded."""

    def __init__(self, path: str, spec: StoreSpec, facts: dict[str, str]) -> None:
        """Maps a file of the cache.

        Raises:
          FileNotFoundError: when it is not there.
          CorruptStore: when it is not a decoded copy of this part.
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
        """How many row groups there are."""
        return len(self._batches)

    def table(self, group: int, names: Iterable[str]) -> pa.Table:
        """Returns columns of a row group."""
        return pa.Table.from_batches([self._batches[group].select(list(names))])

    def features(self, group: int) -> np.ndarray:
        """Returns a row group's features, read-only."""
        return decode_features(self._batches[group].column(FEATURES), self._spec)


def _facts(marker: Marker) -> dict[str, str]:
    """Returns what a file of the cache says of itself."""
    return {
        "hoarfrost_cache": FORMAT,
        "part": marker.part,
        "sha256": marker.part_sha256,
        "rows": str(marker.ledger.rows),
    }
