"""Streams stored rows: by column, split and label, a row group or less in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.commit import Marker
from featurestore.errors import CorruptStore, UsageError, unknown_choice
from featurestore.schema import FEATURES, ROW_COLUMNS, decode_features
from featurestore.spec import StoreSpec
from featurestore.storage import Storage

Columns = dict[str, np.ndarray]


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
        for name in self.columns:
            if name not in ROW_COLUMNS:
                raise unknown_choice("column", name, ROW_COLUMNS)
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def filter_columns(self) -> list[str]:
        """The columns that decide which rows are kept."""
        wanted = (("split", self.splits), ("labels", self.labels), ("view", self.views))
        return [name for name, values in wanted if values is not None]


def scan_parts(
    storage: Storage, markers: Sequence[Marker], spec: StoreSpec, options: ScanOptions
) -> Iterator[Columns]:
    """Yields the rows of committed parts as NumPy columns.

    Args:
      storage: the store's folder.
      markers: the commits to read, in this order.
      spec: of the store.
      options: which rows and columns.

    Yields:
      Column name -> array of equal length: strings and lists of strings as object arrays, features
      as float32 (n, d) or float16/float32 (n, *shape), read-only.

    Raises:
      CorruptStore: when a part is missing or unreadable.
    """
    for marker in markers:
        if marker.part:
            yield from _scan_part(storage, f"parts/{marker.part}", spec, options)


def _scan_part(
    storage: Storage, path: str, spec: StoreSpec, options: ScanOptions
) -> Iterator[Columns]:
    try:
        with storage.open_parquet(path) as part:
            for group in range(part.num_row_groups):
                yield from _scan_group(part, group, spec, options)
    except FileNotFoundError as error:
        raise CorruptStore(
            f"{path} is missing though its marker is there; delete the marker and run the "
            "extraction again"
        ) from error
    except pa.ArrowInvalid as error:
        raise CorruptStore(
            f"{path} cannot be read ({str(error).splitlines()[0]}); delete its marker and run the "
            "extraction again"
        ) from error


def _scan_group(
    part: pq.ParquetFile, group: int, spec: StoreSpec, options: ScanOptions
) -> Iterator[Columns]:
    keep = None
    if options.filter_columns:
        mask = _row_mask(part.read_row_group(group, columns=options.filter_columns), options)
        if not mask.any():
            # The features of a row group without a match are never read.
            return
        keep = None if mask.all() else mask
    table = part.read_row_group(group, columns=list(options.columns))
    if keep is not None:
        table = table.filter(pa.array(keep))
    for start in range(0, table.num_rows, options.batch_size):
        yield to_numpy(table.slice(start, options.batch_size), spec, options.columns)


def _row_mask(table: pa.Table, options: ScanOptions) -> np.ndarray:
    mask = np.ones(table.num_rows, bool)
    if options.splits is not None:
        named = [split for split in options.splits if split is not None]
        column = table["split"]
        match = pc.is_in(column, value_set=pa.array(named, pa.string()))
        if None in options.splits:
            match = pc.or_(match, pc.is_null(column))
        mask &= match.to_numpy()
    if options.labels is not None:
        wanted = set(options.labels)
        mask &= np.array(
            [bool(wanted.intersection(row)) for row in table["labels"].to_pylist()], bool
        )
    if options.views is not None:
        mask &= np.isin(table["view"].to_numpy(), options.views)
    return mask


def to_numpy(table: pa.Table, spec: StoreSpec, columns: Sequence[str]) -> Columns:
    """Turns an Arrow table of rows into NumPy columns; see `scan_parts` for the types."""
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
