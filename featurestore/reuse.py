"""Finds stored features by image content, so that no image is computed twice.

The index in memory takes 24 bytes per row. Features stay on disk: the first request for a row
decodes its row group into a temporary file, from which single rows can be read. New files seldom
come in the order of the old ones, and decoding a row group for every row would take longer than
computing the features again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from featurestore.reading.parts import ParquetPart
from featurestore.store import FeatureStore

# At most half of the free disk, too; further row groups are decoded again for each request.
KEPT_BYTES = 8 << 30


@dataclass(frozen=True)
class StoredFeatures:
    """The features of a store, by the content of their images.

    Attributes:
      digests: uint64 (n, 2), of content hash and view; the first column ascends without repeats.
      rows: int64 (n,), the number of each digest's row, counted through all row groups.
      starts: int64 (groups + 1,), the first row of each row group, then the number of rows.
      blocks: reads the row groups.
    """

    digests: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    blocks: RowGroups

    @classmethod
    def of(cls, store: FeatureStore) -> StoredFeatures:
        """Indexes every stored row, even superseded ones: equal bytes give equal features."""
        digests, counts, places = [np.empty((0, 2), np.uint64)], [0], []
        for marker in store.markers().values():
            if not marker.part:
                continue
            with store.storage.open_parquet(f"parts/{marker.part}") as part:
                for group in range(part.num_row_groups):
                    table = part.read_row_group(group, columns=["content_hash", "view"])
                    digests.append(
                        _digests(table["content_hash"].to_pylist(), table["view"].to_numpy())
                    )
                    counts.append(table.num_rows)
                    places.append((marker.part, group))
        every = np.concatenate(digests)
        # Of two contents with equal first 64 bits, the second is not found but computed.
        _, rows = np.unique(every[:, 0], return_index=True)
        return cls(every[rows], rows, np.cumsum(counts), RowGroups(store, tuple(places)))

    def find(self, names: Sequence[tuple[str, int]]) -> dict[int, np.ndarray]:
        """Finds stored features; each row group is read once for all of its rows.

        Args:
          names: (content hash, view) of each wanted row.

        Returns:
          Index in `names` -> float32 (*feature_shape), or uint8 pixels, for those that are stored.
        """
        if not len(self.rows) or not names:
            return {}
        asked = _digests([text for text, _ in names], np.array([view for _, view in names]))
        at = np.searchsorted(self.digests[:, 0], asked[:, 0]).clip(max=len(self.rows) - 1)
        numbers = np.flatnonzero((self.digests[at] == asked).all(axis=1))
        rows = self.rows[at[numbers]]
        groups = np.searchsorted(self.starts, rows, side="right") - 1
        found: dict[int, np.ndarray] = {}
        for group in np.unique(groups):
            own = groups == group
            features = self.blocks.read(int(group), rows[own] - self.starts[group])
            found |= dict(zip(numbers[own].tolist(), features, strict=True))
        return found


@dataclass
class RowGroups:
    """Reads the features of single rows, and decodes each row group only once.

    Attributes:
      store: the store with the features.
      places: (part, number in it) of each row group.
      decoded: row groups decoded so far.
    """

    store: FeatureStore
    places: Sequence[tuple[str, int]]
    decoded: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: dict[int, int] = field(default_factory=dict, repr=False)
    _file: BinaryIO | None = field(default=None, repr=False)
    _room: int = field(default=0, repr=False)

    def read(self, group: int, rows: np.ndarray) -> np.ndarray:
        """Returns rows of a row group by their numbers in it, as `find` does."""
        with self._turn:
            at = self._kept.get(group)
            if at is None:
                block = self._decode(group)
                self._keep(group, block)
                return block[rows].astype(self.store.spec.computed_dtype)
        assert self._file is not None
        spec, descriptor = self.store.spec, self._file.fileno()
        width = spec.feature_bytes
        data = b"".join(os.pread(descriptor, width, at + int(row) * width) for row in rows)
        shape = (len(rows), *spec.feature_shape)
        return np.frombuffer(data, spec.read_dtype).reshape(shape).astype(spec.computed_dtype)

    def _decode(self, group: int) -> np.ndarray:
        part_name, number = self.places[group]
        self.decoded += 1
        return ParquetPart(self.store.storage, part_name, self.store.spec).features(number)

    def _keep(self, group: int, block: np.ndarray) -> None:
        """Appends a row group to the temporary file if there is room."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="hoarfrost-")
                self._room = min(KEPT_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 2)
            if block.nbytes <= self._room:
                at = self._file.seek(0, os.SEEK_END)
                self._file.write(np.ascontiguousarray(block).data)
                self._file.flush()
                self._room -= block.nbytes
                self._kept[group] = at
        except OSError:
            self._room = 0  # the disk is full: further row groups are decoded for each request


def _digests(content_hashes: Sequence[str], views: np.ndarray) -> np.ndarray:
    """Returns uint64 (n, 2): the first 16 bytes of each hash, with the view added to both."""
    data = np.frombuffer(bytes.fromhex("".join(text[:32] for text in content_hashes)), ">u8")
    # The sum wraps around on overflow.
    return data.reshape(-1, 2).astype(np.uint64) + views.astype(np.uint64)[:, None]
