"""A committed part, read by row group from several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.io.storage import Storage
from featurestore.reading.pages import map_block, plain_block
from featurestore.schema import FEATURES, decode_features
from featurestore.spec import StoreSpec


class Part(Protocol):
    """Rows in row groups; every call may come from another thread."""

    @property
    def groups(self) -> int:
        """How many row groups there are."""

    def table(self, group: int, names: Iterable[str]) -> pa.Table:
        """Reads columns other than features of a row group."""

    def features(self, group: int) -> np.ndarray:
        """Reads a row group's features, read-only, as `schema.decode_features` returns them."""


class ParquetPart:
    """A part's own file.

    A local file is opened anew by every reader, which costs little and lets them decode at once. A
    remote one is opened once, and its readers take turns; other parts are read meanwhile.
    """

    def __init__(self, storage: Storage, name: str, spec: StoreSpec) -> None:
        """Opens a part.

        Args:
          storage: the store's folder.
          name: of the file below ``parts/``.
          spec: of the store.

        Raises:
          CorruptStore: when it is missing or not readable.
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
        """How many row groups there are."""
        return self._metadata.num_row_groups

    def table(self, group: int, names: Iterable[str]) -> pa.Table:
        """Reads columns of a row group."""
        columns = list(names)
        if self._remote is not None:
            with self._turn, self._storage.readable(self._name):
                return self._remote.read_row_group(group, columns, use_threads=False)
        with self._storage.open_parquet(self._name, self._metadata) as file:
            return file.read_row_group(group, columns, use_threads=False)

    def features(self, group: int) -> np.ndarray:
        """Reads a row group's features; local maps are not copied."""
        if self._spec.is_map and self._remote is None:
            path, width = self._storage.path(self._name), self._spec.feature_bytes
            with self._storage.readable(self._name):
                block = plain_block(path, self._metadata, group, FEATURES, width)
                if block:
                    return map_block(path, *block, self._spec.dtype).reshape(
                        -1, *self._spec.feature_shape
                    )
        return decode_features(self.table(group, [FEATURES])[FEATURES], self._spec)
