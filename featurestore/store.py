"""A feature store: creates, opens and reads it, without TensorFlow and Beam."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurestore import layout
from featurestore.commit import Marker, read_markers
from featurestore.decision import with_decision
from featurestore.errors import UsageError, cannot_write, unknown_choice
from featurestore.index.index import Index
from featurestore.index.stored import UNINDEXED
from featurestore.io.storage import Storage
from featurestore.labels.overlay import Overlay, versions
from featurestore.ledger import Ledger
from featurestore.reading.cache import DecodedCache
from featurestore.reading.counts import count_ledger, live_quarantined
from featurestore.reading.moment import Moment
from featurestore.reading.rows import Columns
from featurestore.reading.scan import Scanner, ScanOptions
from featurestore.reading.visibility import Visibility
from featurestore.schema import FEATURES
from featurestore.spec import BaseSpec, StoreSpec
from featurestore.taps import columns_of, narrowed, require_one, taps_of

SCAN_COLUMNS = ("key", "labels", "split", FEATURES)


@dataclass(frozen=True)
class FeatureStore:
    """An open store. Each call sees the chunks that are committed when the call begins.

    Attributes:
      storage: the store's folder.
      spec: the definition of the features.
      cache: of decoded parts, see `with_cache`; None reads the parts themselves.
      moment: the commits and labels that every call sees, see `at_this_moment`; None for those at
        the beginning of each call.
    """

    storage: Storage
    spec: StoreSpec
    cache: DecodedCache | None = None
    moment: Moment | None = field(default=None, repr=False, compare=False)

    def at_this_moment(self) -> FeatureStore:
        """Returns this store as it is now, without later commits and labels."""
        return self if self.moment else replace(self, moment=Moment.read(self.storage))

    def at_moment(self, names: str | bytes) -> FeatureStore:
        """Returns this store at an earlier moment, which `Moment.to_json` has described."""
        return replace(self, moment=Moment.restore(self.storage, names))

    def with_cache(self, limit: int | None = None) -> FeatureStore:
        """Returns this store with a cache of decoded parts, if a cache helps.

        Maps are stored in their form in memory and need no cache. A remote store has no place for
        one.

        Args:
          limit: the largest size in bytes; 0 for no cache, None for 20 GiB or half of the free
            disk.
        """
        maps = any(each.is_map for each in columns_of(self.spec))
        if limit == 0 or maps or not self.storage.is_local:
            return self
        return replace(self, cache=DecodedCache(self.storage, self.spec, limit))

    def tap(self, name: str) -> FeatureStore:
        """Returns this store as one of the features of one tap.

        Args:
          name: of a tap, ``LAYER`` or ``LAYER:POOLING``; several joined by ``+`` are read side by
            side, each flattened; "" for the whole store.

        Raises:
          UsageError: for a tap that the store does not have.
        """
        return replace(self, spec=narrowed(self.spec, name), cache=None) if name else self

    def tap_of(self, base: BaseSpec) -> FeatureStore:
        """Returns this store as one of the tap of a base, as far as it has that tap."""
        known = {tap.name for tap in self.spec.base.taps}
        return self.tap(base.tap) if known.issuperset(taps_of(base)) else self

    @property
    def url(self) -> str:
        """The store's address without credentials."""
        return self.storage.public_url

    def markers(self) -> dict[str, Marker]:
        """Reads the commits, ordered by key: chunk_id -> marker."""
        return dict(self.moment.markers) if self.moment else read_markers(self.storage)

    def label_versions(self) -> list[str]:
        """Returns the names of the label versions, the newest last."""
        return list(self.moment.overlay.versions) if self.moment else versions(self.storage)

    def scan(
        self,
        columns: Sequence[str] = SCAN_COLUMNS,
        *,
        splits: Sequence[str | None] | None = None,
        labels: Sequence[str] | None = None,
        batch_size: int = 1024,
        views: Sequence[int] | None = None,
        tap: str = "",
    ) -> Iterator[Columns]:
        """Streams rows in bounded memory, while threads decode the next row groups.

        Args:
          columns: any of key, uri, size, etag, content_hash, labels, split, view, width, height and
            features.
          splits: keep rows of these splits; None keeps all rows, and None among the splits keeps
            rows without a split.
          labels: keep rows that have at least one of these labels.
          batch_size: the most rows in a batch; a batch does not cross row groups.
          views: keep these views; view 0 is the unaugmented image.
          tap: of a store of several, as for `tap`.

        Returns:
          An iterator of column name -> array: features are float32 (n, d) for embeddings and
          float16 or float32 (n, h, w, c) for maps, uint8 for pixels; strings and lists of labels
          are object arrays.

        Raises:
          UsageError: for an unknown column or tap, or without the tap of a store of several.
          CorruptStore: for a part that is missing or unreadable.
        """
        options = ScanOptions(
            columns=_listed(columns),
            splits=_listed(splits),
            labels=_listed(labels),
            batch_size=batch_size,
            views=_listed(views),
        )
        markers = list(self.markers().values())
        return self.tap(tap).scanner(markers).scan(markers, options)

    def scanner(self, markers: Iterable[Marker]) -> Scanner:
        """Returns a reader of the rows that count after `markers`, the store's commits."""
        moment = self.moment
        overlay = moment.overlay if moment else Overlay.read(self.storage, versions(self.storage))
        return Scanner(self.storage, self.spec, Visibility.of(markers), overlay, self.cache)

    def scan_markers(
        self, markers: Sequence[Marker], columns: Sequence[str], views: Sequence[int] | None = None
    ) -> Iterator[Columns]:
        """Streams the rows of the given commits only; see `scan` for columns and views."""
        options = ScanOptions(tuple(columns), views=None if views is None else tuple(views))
        return self.scanner(self.markers().values()).scan(markers, options)

    def load(
        self,
        columns: Sequence[str] = SCAN_COLUMNS,
        *,
        splits: Sequence[str | None] | None = None,
        labels: Sequence[str] | None = None,
        views: Sequence[int] | None = None,
        tap: str = "",
    ) -> Columns:
        """Reads all rows into memory; see `scan` for arguments and arrays."""
        if tap:
            return self.tap(tap).load(columns, splits=splits, labels=labels, views=views)
        batches = list(self.scan(columns, splits=splits, labels=labels, views=views))
        if not batches:
            empty: dict[str, Any] = dict.fromkeys(columns, np.empty(0, object))
            if FEATURES in empty:
                empty[FEATURES] = np.empty((0, *self.spec.feature_shape), self.spec.read_dtype)
            return empty
        return {name: np.concatenate([batch[name] for batch in batches]) for name in columns}

    def split_counts(self) -> dict[str | None, int]:
        """Counts view-0 rows by split; None stands for rows without a split."""
        counts: Counter[str | None] = Counter()
        for batch in self.scan(["split"], views=[0]):
            counts.update(batch["split"])
        return dict(counts)

    def require_split(self, split: str) -> None:
        """Refuses a split that no row has.

        Raises:
          UsageError: with the splits that exist.
        """
        names = [name for name in self.split_counts() if name is not None]
        if not names:
            raise UsageError(f"--split {split}: the rows of {self.url} have no split")
        if split not in names:
            raise unknown_choice("--split", split, names)

    def quarantined(self, run_id: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Yields the images that could not be used: key, uri, size, etag, kind and message.

        Args:
          run_id: keep images of this run; None keeps all.
        """
        markers = self.markers().values()
        scanner = self.scanner(markers)
        for marker in markers:
            if run_id in (None, marker.run_id):
                yield from live_quarantined(scanner, marker)

    def ledger(self) -> Ledger:
        """Adds up the ledgers of the committed chunks, without superseded images."""
        markers = list(self.markers().values())
        visibility = Visibility.of(markers)
        if sum(map(visibility.concerns, markers)) > UNINDEXED:
            return Index.read(self.storage, markers).ledger(markers)
        return count_ledger(self.scanner(markers), markers)

    def last_summary(self) -> dict[str, Any] | None:
        """Returns the summary of the last finished run, or None before the first one."""
        try:
            return json.loads(self.storage.read(layout.SUMMARY))
        except FileNotFoundError:
            return None

    def local_model(self) -> AbstractContextManager[Path]:
        """Yields a local path to the stored base, downloaded if need be."""
        return self.storage.local_copy(layout.model_file(self.spec.base.weights_hash))


def _listed(values: Any) -> Any:
    # A lone string stays one, so that the options can refuse it.
    return values if values is None or isinstance(values, str) else tuple(values)


def open_store(
    url: str, storage_options: Mapping[str, Any] | None = None, tap: str = ""
) -> FeatureStore:
    """Opens a store for reading.

    Args:
      url: the store's folder, local or any fsspec URL.
      storage_options: for the file system.
      tap: of a store of several, as for `FeatureStore.tap`; "" for the whole store.

    Raises:
      UsageError: when there is no store or no such tap, or it cannot be read.
    """
    storage = Storage(str(url), storage_options or {})
    try:
        text = storage.read(layout.SPEC)
        spec = StoreSpec.from_json(text, f"{storage.public_url}/{layout.SPEC}")
        spec = with_decision(storage, spec)
    except FileNotFoundError as error:
        raise UsageError(
            f"no feature store at {storage.public_url!r}: {layout.SPEC} is missing; make one "
            f"with python -m pipelines.extract --output {storage.public_url}"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the store at {storage.public_url!r}: {error}") from error
    return FeatureStore(storage, spec).tap(tap)


def open_tap(
    url: str, storage_options: Mapping[str, Any] | None = None, tap: str = ""
) -> FeatureStore:
    """Opens a store whose features are to be read; arguments as for `open_store`.

    Raises:
      UsageError: as `open_store`, and for a store of several taps when none is named.
    """
    store = open_store(url, storage_options, tap)
    require_one(store.spec, store.url)
    return store


def create_store(storage: Storage, spec: StoreSpec) -> FeatureStore:
    """Creates a store, or opens the existing one if it holds the same features.

    Args:
      storage: the store's folder.
      spec: of the new store.

    Returns:
      The store, with the spec of its first writer.

    Raises:
      SpecMismatch: when the store holds other features.
      UsageError: when the folder cannot be written.
    """
    try:
        created = storage.create(layout.SPEC, spec.to_json())
    except (OSError, ValueError) as error:
        raise cannot_write("--output", storage.public_url, error) from error
    if created:
        return FeatureStore(storage, spec)
    store = open_store(storage.url, storage.options)
    store.spec.require_same(spec, f"the store at {store.url}")
    return store
