"""Streams stored rows: by column, split and label, a row group or less in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.commit import Marker
from featurestore.errors import UsageError, unknown_choice
from featurestore.overlay import Overlay
from featurestore.schema import FEATURES, ROW_COLUMNS, decode_features
from featurestore.spec import StoreSpec
from featurestore.storage import Storage
from featurestore.visibility import Visibility

Columns = dict[str, np.ndarray]
_OVERLAID = ("labels", "split")


@dataclass(frozen=True)
class ScanOptions:
    """Which rows and columns to read.

    Attributes:
      columns: any of `schema.ROW_COLUMNS`.
      splits: keep rows of these splits; None keeps all. A None inside means rows without a split.
      labels: keep rows with at least one of these labels; None keeps all.
      batch_size: rows per batch at most.
      views: keep these views; None keeps all.
    """

    columns: tuple[str, ...] = ("key", "labels", "split", FEATURES)
    splits: tuple[str | None, ...] | None = None
    labels: tuple[str, ...] | None = None
    batch_size: int = 1024
    views: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("columns", "splits", "labels"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} must be a list of names, got {getattr(self, name)!r}")
        for name in self.columns:
            if name not in ROW_COLUMNS:
                raise unknown_choice("column", name, ROW_COLUMNS)
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def filter_columns(self) -> set[str]:
        """The columns that decide which rows are kept."""
        wanted = (("split", self.splits), ("labels", self.labels), ("view", self.views))
        return {name for name, values in wanted if values is not None}


@dataclass(frozen=True)
class Scanner:
    """Reads the rows of committed parts as they count today.

    Attributes:
      storage: the store's folder.
      spec: of the store.
      visibility: what newer runs superseded.
      overlay: labels and splits that came later.
    """

    storage: Storage
    spec: StoreSpec
    visibility: Visibility = field(default_factory=Visibility)
    overlay: Overlay = field(default_factory=Overlay)

    def scan(self, markers: Iterable[Marker], options: ScanOptions) -> Iterator[Columns]:
        """Yields rows as NumPy columns.

        Args:
          markers: the commits to read, in this order.
          options: which rows and columns.

        Yields:
          Column name -> array of equal length: strings and lists of strings as object arrays,
          features as float32 (n, d) or float16/float32 (n, *shape), read-only.

        Raises:
          CorruptStore: when a part is missing or unreadable.
        """
        for marker in markers:
            if marker.part:
                yield from self._scan_part(marker, options)

    def _scan_part(self, marker: Marker, options: ScanOptions) -> Iterator[Columns]:
        path = f"parts/{marker.part}"
        hide = self.visibility.concerns(marker)
        with self.storage.open_parquet(path) as part:
            for group in range(part.num_row_groups):
                small, keep = self._decide(part, group, options, marker.run_id if hide else "")
                if keep is None or keep.any():
                    yield from self._batches(part, group, options, small, keep)

    def _decide(
        self, part: pq.ParquetFile, group: int, options: ScanOptions, hide_before: str
    ) -> tuple[Columns, np.ndarray | None]:
        """Reads the small columns of a row group and decides which of its rows are kept.

        Returns:
          (labels and split where an overlay may change them, bool (n,) or None for all).
        """
        names = set(options.filter_columns)
        overlaid = self.overlay.changes and (names | {*options.columns}) & {*_OVERLAID}
        if overlaid:
            names |= {"key", *_OVERLAID}
        if hide_before:
            names.add("key")
        if not names:
            return {}, None
        small = to_numpy(part.read_row_group(group, columns=sorted(names)), self.spec, names)
        if overlaid:
            small["split"] = small["split"].copy()
            self.overlay.apply(small["key"], small["labels"], small["split"])
        keep = np.ones(len(next(iter(small.values()))), bool)
        if hide_before:
            keep &= self.visibility.shows(small["key"], hide_before)
        keep &= _matches(small, options, len(keep))
        patched = {name: small[name] for name in _OVERLAID} if overlaid else {}
        return patched, None if keep.all() else keep

    def _batches(
        self,
        part: pq.ParquetFile,
        group: int,
        options: ScanOptions,
        patched: Columns,
        keep: np.ndarray | None,
    ) -> Iterator[Columns]:
        table = part.read_row_group(group, columns=list(options.columns))
        if keep is not None:
            table = table.filter(pa.array(keep))
            patched = {name: values[keep] for name, values in patched.items()}
        for start in range(0, table.num_rows, options.batch_size):
            stop = start + options.batch_size
            batch = to_numpy(table.slice(start, options.batch_size), self.spec, options.columns)
            for name in batch.keys() & patched.keys():
                batch[name] = patched[name][start:stop]
            yield batch


def _matches(small: Columns, options: ScanOptions, count: int) -> np.ndarray:
    mask = np.ones(count, bool)
    if options.splits is not None:
        wanted = set(options.splits)
        mask &= np.array([split in wanted for split in small["split"]], bool)
    if options.labels is not None:
        names = set(options.labels)
        mask &= np.array([bool(names.intersection(row)) for row in small["labels"]], bool)
    if options.views is not None:
        mask &= np.isin(small["view"], options.views)
    return mask


def to_numpy(table: pa.Table, spec: StoreSpec, columns: Iterable[str]) -> Columns:
    """Turns an Arrow table of rows into NumPy columns; see `Scanner.scan` for the types."""
    result: Columns = {}
    for name in columns:
        if name == FEATURES:
            result[name] = decode_features(table[name], spec)
        elif name == "labels":
            result[name] = _object_array(table[name].to_pylist())
        else:
            result[name] = table[name].to_numpy()
    return result


def _object_array(values: list) -> np.ndarray:
    # np.array would make lists of equal length into a second axis.
    array = np.empty(len(values), object)
    array[:] = values
    return array
