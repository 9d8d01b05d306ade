"""Reads a committed part by row group, from several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.io.storage import Storage
from featurestore.reading.pages import expect, map_block, plain_block
from featurestore.reading.splits import split_lists
from featurestore.schema import decode_columns, feature_field
from featurestore.spec import StoreSpec
from featurestore.taps import columns_of


class Part(Protocol):
    """Rows in row groups; calls may come from any thread."""

    @property
    def groups(self) -> int:
        """The number of row groups."""

    def table(self, group: int, names: Iterable[str]) -> pa.Table:
        """Reads the given columns of a row group, but not its features."""

    def features(self, group: int) -> np.ndarray:
        """Returns a row group's features, read-only; see `schema.decode_features` for the type."""

    def expect(self, group: int) -> None:
        """Says that a row group's features are read soon."""


class ParquetPart:
    """The file of a part.

    Each call opens a local file anew, which costs little and lets threads decode at once. A remote
    file is opened once and its readers take turns; meanwhile other threads read other parts.
    """

    def __init__(self, storage: Storage, name: str, spec: StoreSpec) -> None:
        """Opens a part.

        Args:
          storage: the store's folder.
          name: of the file below ``parts/``.
          spec: of the store.

        Raises:
          CorruptStore: when the part is missing or unreadable.
        """
        self._storage, self._name, self._spec = storage, f"parts/{name}", spec
        self._turn = threading.Lock()
        self._remote: pq.ParquetFile | None = None
        if storage.is_local:
            with storage.open_parquet(self._name) as file:
                self._metadata = file.metadata
        else:
            with storage.readable(self._name):
                self._remote = pq.ParquetFile(storage.open(self._name), pre_buffer=False)
                self._metadata = self._remote.metadata

    @property
    def groups(self) -> int:
        """The number of row groups."""
        return self._metadata.num_row_groups

    def table(self, group: int, names: Iterable[str]) -> pa.Table:
        """Reads the given columns of a row group."""
        columns = list(names)
        if self._remote is not None:
            with self._turn, self._storage.readable(self._name):
                return self._remote.read_row_group(group, columns, use_threads=False)
        with self._storage.open_parquet(self._name, self._metadata) as file:
            return file.read_row_group(group, columns, use_threads=False)

    def features(self, group: int) -> np.ndarray:
        """Returns a row group's features, read-only; local maps are not copied."""
        columns, found = columns_of(self._spec), None
        if self._remote is None:
            with self._storage.readable(self._name):
                if len(columns) == 1:
                    found = self._maps(group) if self._spec.is_map else self._lists(group)
        if found is None:
            return decode_columns(self.table(group, [c.column for c in columns]), self._spec)
        return found.reshape(-1, *self._spec.feature_shape)

    def expect(self, group: int) -> None:
        """Asks the system to read a row group's features ahead, if the file is local."""
        if self._remote is not None:
            return
        path, footer = self._storage.path(self._name), self._metadata.row_group(group)
        names = {each.column for each in columns_of(self._spec)}
        for chunk in map(footer.column, range(self._metadata.num_columns)):
            # Of a column of lists, the path goes on below its name.
            if chunk.path_in_schema.partition(".")[0] in names:
                expect(path, chunk.data_page_offset, chunk.total_compressed_size)

    def _maps(self, group: int) -> np.ndarray | None:
        path, width = self._storage.path(self._name), self._spec.feature_bytes
        block = plain_block(path, self._metadata, group, self._spec.column, width)
        return map_block(path, *block, self._spec.dtype) if block else None

    def _lists(self, group: int) -> np.ndarray | None:
        if not self._has_lists:
            return None
        path, length = self._storage.path(self._name), self._spec.feature_size
        return split_lists(path, self._metadata, group, self._spec.column, length)

    @cached_property
    def _has_lists(self) -> bool:
        """Whether the column is of the type that Hoarfrost writes, as it may not be elsewhere."""
        schema, name = self._metadata.schema.to_arrow_schema(), self._spec.column
        return name in schema.names and schema.field(name).type == feature_field(self._spec).type
