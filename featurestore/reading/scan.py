"""Streams stored rows by column, split and label, with a few row groups in memory at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.commit import Marker
from featurestore.errors import UsageError, unknown_choice
from featurestore.io.readahead import OPEN_AT_ONCE, in_order, interleaved, ordered_map
from featurestore.io.storage import Storage
from featurestore.labels.overlay import Overlay
from featurestore.reading.cache import DecodedCache
from featurestore.reading.parts import ParquetPart, Part
from featurestore.reading.rows import Columns, Rows, to_numpy
from featurestore.reading.visibility import Visibility
from featurestore.schema import FEATURES, ROW_COLUMNS
from featurestore.spec import StoreSpec
from featurestore.taps import require_one

# Row groups, of about 8 MB, that the system reads ahead of those that are decoded.
GROUPS_AHEAD = 8
_OVERLAID = ("labels", "split")


@dataclass(frozen=True)
class ScanOptions:
    """Which rows and columns to read.

    Attributes:
      columns: any of `schema.ROW_COLUMNS`.
      splits: keep rows of these splits; None keeps all rows, and None among the splits keeps rows
        without a split.
      labels: keep rows with at least one of these labels; None keeps all rows.
      batch_size: the most rows in a batch.
      views: keep these views; None keeps all.
      order: seed of a random order of parts and row groups; None keeps the stored order.
    """

    columns: tuple[str, ...] = ("key", "labels", "split", FEATURES)
    splits: tuple[str | None, ...] | None = None
    labels: tuple[str, ...] | None = None
    batch_size: int = 1024
    views: tuple[int, ...] | None = None
    order: tuple[int, ...] | None = None

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
        """The columns that decide which rows to keep."""
        wanted = (("split", self.splits), ("labels", self.labels), ("view", self.views))
        return {name for name, values in wanted if values is not None}


@dataclass(frozen=True)
class Scanner:
    """Reads those rows of committed parts that no newer run superseded.

    Attributes:
      storage: the store's folder.
      spec: of the store.
      visibility: the keys that newer runs superseded.
      overlay: labels and splits that were added after the rows.
      cache: of decoded parts; None reads the parts themselves.
    """

    storage: Storage
    spec: StoreSpec
    visibility: Visibility = field(default_factory=Visibility)
    overlay: Overlay = field(default_factory=Overlay)
    cache: DecodedCache | None = None

    def scan(self, markers: Iterable[Marker], options: ScanOptions) -> Iterator[Columns]:
        """Yields rows as NumPy columns.

        Args:
          markers: the commits to read, in this order unless `options.order` is set.
          options: which rows and columns to read.

        Yields:
          Column name -> array of equal length. Strings and lists of strings are object arrays;
          features are float32 (n, d) or float16/float32 (n, *shape), read-only.

        Raises:
          CorruptStore: when a part is missing or unreadable.
          UsageError: for features of a store of several taps, of which none was chosen.
        """
        if FEATURES in options.columns:
            require_one(self.spec, self.storage.public_url)
        for rows in in_order(self._tasks(markers, options)):
            if rows is not None:
                yield from rows.batches(options.columns, options.batch_size)

    def scan_groups(
        self, markers: Iterable[Marker], options: ScanOptions
    ) -> Iterator[tuple[Marker, int, Columns | None]]:
        """Yields every row group in the stored order: its commit, its number, its wanted rows.

        Args:
          markers: the commits to read.
          options: which rows and columns to read; `batch_size` and `order` are ignored.

        Yields:
          The wanted rows as `scan` gives them, all in one batch, or None if there are none.
        """
        marked = [marker for marker in markers if marker.part]
        parts = in_order(partial(self._open, marker, False) for marker in marked)

        tasks = (
            partial(self._block, marker, number, part, options)
            for marker, part in zip(marked, parts, strict=True)
            for number in range(part.groups)
        )
        return in_order(tasks)

    def read_groups(
        self, markers: Mapping[str, Marker], places: Iterable[tuple[str, int]], options: ScanOptions
    ) -> Iterator[Columns | None]:
        """Yields the wanted rows of single row groups, as `scan_groups` does.

        Args:
          markers: chunk_id -> commit.
          places: chunk ids and numbers of row groups, in the order to read. Of `OPEN_AT_ONCE` parts
            that take turns none is opened twice.
          options: as for `scan_groups`.
        """

        # Twice as many, because finished parts stay until others need their room.
        @lru_cache(2 * OPEN_AT_ONCE)
        def opened(chunk_id: str) -> Part:
            return self._open(markers[chunk_id], FEATURES in options.columns)

        def block(chunk_id: str, number: int) -> Columns | None:
            return self._block(markers[chunk_id], number, opened(chunk_id), options)[-1]

        return in_order(partial(block, *place) for place in places)

    def _block(
        self, marker: Marker, number: int, part: Part, options: ScanOptions
    ) -> tuple[Marker, int, Columns | None]:
        rows = self._read(part, number, options, self._hide_before(marker))
        whole = None if rows is None else rows.batches(options.columns, sys.maxsize)
        return marker, number, None if whole is None else next(whole, None)

    def _hide_before(self, marker: Marker) -> str:
        return marker.run_id if self.visibility.concerns(marker) else ""

    def _tasks(
        self, markers: Iterable[Marker], options: ScanOptions
    ) -> Iterator[Callable[[], Rows | None]]:
        """Yields one task per row group, while the next parts are opened."""
        marked = [marker for marker in markers if marker.part]
        rng = None if options.order is None else np.random.default_rng(options.order)
        if rng is not None:
            marked = [marked[number] for number in rng.permutation(len(marked))]
        make = FEATURES in options.columns
        parts = in_order(partial(self._open, marker, make) for marker in marked)
        groups = (
            self._groups(marker, part, rng) for marker, part in zip(marked, parts, strict=True)
        )
        places = chain.from_iterable(groups) if rng is None else interleaved(groups, rng)
        if make and not options.filter_columns:
            places = _expected(places)
        for part, number, hide_before in places:
            yield partial(self._read, part, number, options, hide_before)

    def _groups(
        self, marker: Marker, part: Part, rng: np.random.Generator | None
    ) -> Iterator[_Place]:
        hide_before = self._hide_before(marker)
        numbers = range(part.groups) if rng is None else rng.permutation(part.groups).tolist()
        for number in numbers:
            yield _Place(part, number, hide_before)

    def _open(self, marker: Marker, make: bool) -> Part:
        cached = self.cache.open(marker, make) if self.cache else None
        return cached or ParquetPart(self.storage, marker.part, self.spec)

    def _read(self, part: Part, group: int, options: ScanOptions, hide_before: str) -> Rows | None:
        """Reads the wanted rows of a row group; returns None when there are none."""
        deciding = options.filter_columns | ({"key"} if hide_before else set())
        overlaid = self.overlay.changes and (deciding | {*options.columns}) & {*_OVERLAID}
        if overlaid:
            deciding |= {"key", *_OVERLAID}
        names = sorted((deciding | {*options.columns}) - {FEATURES})
        table = part.table(group, names) if names else pa.table({})
        patched: Columns = {}
        keep = None
        if deciding:
            small = to_numpy(table, deciding)
            if overlaid:
                small["split"] = small["split"].copy()
                self.overlay.apply(small["key"], small["labels"], small["split"])
                patched = {name: small[name] for name in _OVERLAID}
            keep = _matches(small, options, table.num_rows)
            if hide_before:
                keep &= self.visibility.shows(small["key"], hide_before)
            if not keep.any():
                return None
        features = None
        if FEATURES in options.columns:
            part.expect(group)
            features = part.features(group)
        rows = Rows(table, features, patched)
        return rows if keep is None or keep.all() else rows.only(keep)


class _Place(NamedTuple):
    """A row group that is read.

    Attributes:
      part: that holds it.
      number: of the group in its part.
      hide_before: id of the run before which rows may be superseded; "" if none is.
    """

    part: Part
    number: int
    hide_before: str


def _expected(places: Iterable[_Place]) -> Iterator[_Place]:
    """Yields the places, and lets the system read those that follow meanwhile."""

    def expect(place: _Place) -> _Place:
        place.part.expect(place.number)
        return place

    with ThreadPoolExecutor(1, "hoarfrost-expect") as pool:
        yield from ordered_map(pool, expect, places, GROUPS_AHEAD)


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
