"""Writes parts and quarantine files as Parquet, and computes their checksums meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.io.storage import Storage
from featurestore.layout import HashedName
from featurestore.schema import META_FIELDS, QUARANTINE_SCHEMA, row_schema, row_table
from featurestore.spec import StoreSpec
from featurestore.taps import columns_of

ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = (256, 1024)


@dataclass(frozen=True)
class Written:
    """A finished file that is not published yet.

    Attributes:
      path: of the file.
      sha256: 64 hex digits over the file.
      rows: number of rows.
      size: in bytes.
    """

    path: Path
    sha256: str
    rows: int
    size: int


def publish(storage: Storage, chunk_id: str, written: Written, folder: str) -> str:
    """Publishes a finished file under a name that ends in its checksum.

    Args:
      storage: of the store.
      chunk_id: of the file's chunk.
      written: the finished file.
      folder: ``parts`` or ``quarantine``.

    Returns:
      The file name below `folder`.
    """
    name = str(HashedName(chunk_id, written.sha256[:16]))
    storage.publish(written.path, f"{folder}/{name}")
    return name


class _HashingFile:
    """A file for appending that tracks its sha256 and its size."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb")
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        self._digest.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class ParquetFile:
    """Writes a Parquet file row group by row group.

    Use it as a context manager. `finish` completes the file; an exception abandons it.
    """

    def __init__(self, path: Path, schema: pa.Schema, **settings: Any) -> None:
        self._path = path
        self._sink = _HashingFile(path)
        self._writer = pq.ParquetWriter(self._sink, schema, **settings)
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if not self._sink.closed:
            # The writer adds a footer to the abandoned file, which is never published.
            with suppress(pa.ArrowException, OSError):
                self._writer.close()
            self._sink.close()

    def write_table(self, table: pa.Table) -> None:
        """Appends `table` as one row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._rows += table.num_rows

    def finish(self) -> Written:
        """Closes the file and describes it."""
        self._writer.close()
        self._sink.close()
        return Written(self._path, self._sink.sha256, self._rows, self._sink.size)


class PartWriter(ParquetFile):
    """Writes a part, in row groups of 256 to 1,024 rows."""

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self._spec = spec
        super().__init__(path, self.schema(), **self.settings())
        self._group_rows = group_rows(spec)
        self._pending_rows: list[Mapping[str, Any]] = []
        self._pending_features: list[np.ndarray] = []

    def schema(self) -> pa.Schema:
        """Returns the schema of the file."""
        return row_schema(self._spec)

    def settings(self) -> dict[str, Any]:
        """Returns the Parquet settings of the file."""
        return part_settings(self._spec)

    def table(self, rows: Sequence[Mapping[str, Any]], features: np.ndarray) -> pa.Table:
        """Returns rows as one row group; arguments as in `write`."""
        return row_table(rows, features, self._spec)

    def write(self, rows: Sequence[Mapping[str, Any]], features: np.ndarray) -> None:
        """Appends rows.

        Args:
          rows: one mapping per row, with the columns of `schema.META_FIELDS`.
          features: finite float32 (len(rows), *spec.feature_shape), or uint8 pixels.
        """
        for start in range(0, len(rows), self._group_rows):
            some = slice(start, start + self._group_rows)
            self._pending_rows.extend(rows[some])
            self._pending_features.append(features[some])
            if len(self._pending_rows) >= self._group_rows:
                self._flush()

    def _flush(self) -> None:
        if self._pending_rows:
            features = np.concatenate(self._pending_features)
            self.write_table(self.table(self._pending_rows, features))
            self._pending_rows, self._pending_features = [], []

    def finish(self) -> Written:
        """Writes the pending rows, closes the file and describes it."""
        self._flush()
        return super().finish()


def group_rows(spec: StoreSpec) -> int:
    """Returns the most rows of a row group of a part."""
    low, high = ROW_GROUP_ROWS
    return int(np.clip(ROW_GROUP_BYTES // spec.stored_bytes, low, high))


def part_settings(spec: StoreSpec) -> dict[str, Any]:
    """Returns the Parquet settings of a part.

    Maps stay uncompressed: float16 activations hardly shrink, and decoding them would cost more
    than reading them. Embeddings are split into byte streams, which lets zstd compress exponents.
    """
    labels = "labels.list.element"
    dictionary = ["etag", "split", labels]
    maps = [each.column for each in columns_of(spec) if each.is_map]
    vectors = [f"{each.column}.list.element" for each in columns_of(spec) if not each.is_map]
    settings: dict[str, Any] = {"use_dictionary": dictionary, "compression": "zstd"}
    if maps:
        columns = {field.name: "zstd" for field in META_FIELDS if field.name != "labels"}
        columns |= {labels: "zstd", **dict.fromkeys(vectors, "zstd"), **dict.fromkeys(maps, "none")}
        settings["compression"] = columns
    if vectors:
        settings["use_byte_stream_split"] = vectors
        settings["compression_level"] = dict.fromkeys(vectors, 1) if maps else 1
    return settings


def write_quarantine(path: Path, rows: Sequence[Mapping[str, Any]]) -> Written:
    """Writes a chunk's quarantine file.

    Args:
      path: of the new file.
      rows: one mapping per image, with the columns of `schema.QUARANTINE_SCHEMA`; at least one.
    """
    with ParquetFile(path, QUARANTINE_SCHEMA, compression="zstd") as file:
        file.write_table(pa.Table.from_pylist(list(rows), QUARANTINE_SCHEMA))
        return file.finish()
