"""A feature store: open it, describe it, read it. No TensorFlow, no Beam."""

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
from featurestore.errors import CorruptStore, SpecMismatch, UsageError, cannot_write, unknown_choice
from featurestore.io.storage import Storage
from featurestore.labels.overlay import Overlay, versions
from featurestore.ledger import Ledger
from featurestore.reading.cache import DecodedCache
from featurestore.reading.counting import count_ledger, live_quarantined
from featurestore.reading.moment import Moment
from featurestore.reading.scan import Columns, Scanner, ScanOptions
from featurestore.reading.visibility import Visibility
from featurestore.schema import FEATURES
from featurestore.spec import StoreSpec

SCAN_COLUMNS = ("key", "labels", "split", FEATURES)


@dataclass(frozen=True)
class FeatureStore:
    """An open store. Each call sees the chunks that are committed when it begins.

    Attributes:
      storage: the folder.
      spec: what the features are.
      cache: of decoded parts, see `with_cache`; None reads the parts themselves.
      moment: the commits and labels that every call sees, see `at_this_moment`; None for those of
        its own.
    """

    storage: Storage
    spec: StoreSpec
    cache: DecodedCache | None = None
    moment: Moment | None = field(default=None, repr=False, compare=False)

    def at_this_moment(self) -> FeatureStore:
        """Returns this store as it is now: what is committed or relabelled later is not seen."""
        return self if self.moment else replace(self, moment=Moment.read(self.storage))

    def at_moment(self, names: str | bytes) -> FeatureStore:
        """Returns this store as it was at a moment, given by `Moment.to_json`."""
        return replace(self, moment=Moment.restore(self.storage, names))

    def with_cache(self, limit: int | None = None) -> FeatureStore:
        """Returns this store read through a cache of decoded parts, where there is a gain in it.

        Maps are stored as they lie in memory and need none; a remote store has no place for it.

        Args:
          limit: bytes at most, 0 for no cache; None for 20 GiB or half of the free disk.
        """
        if limit == 0 or self.spec.is_map or not self.storage.is_local:
            return self
        return replace(self, cache=DecodedCache(self.storage, self.spec, limit))

    @property
    def url(self) -> str:
        """The store's address without credentials."""
        return self.storage.public_url

    def markers(self) -> dict[str, Marker]:
        """Reads the commits, ordered by key: chunk_id -> marker."""
        return dict(self.moment.markers) if self.moment else read_markers(self.storage)

    def label_versions(self) -> list[str]:
        """Returns the names of the labels that came later than the rows, the newest last."""
        return list(self.moment.overlay.versions) if self.moment else versions(self.storage)

    def scan(
        self,
        columns: Sequence[str] = SCAN_COLUMNS,
        *,
        splits: Sequence[str | None] | None = None,
        labels: Sequence[str] | None = None,
        batch_size: int = 1024,
        views: Sequence[int] | None = None,
    ) -> Iterator[Columns]:
        """Streams rows in bounded memory: a few row groups are held, decoded ahead in threads.

        Args:
          columns: any of key, uri, size, etag, content_hash, labels, split, view, width, height and
            features.
          splits: keep rows of these splits; None keeps all, a None inside means rows without one.
          labels: keep rows that have at least one of these labels.
          batch_size: rows per batch at most; batches do not cross row groups.
          views: keep these views; 0 is the image as it is.

        Returns:
          An iterator of column name -> array: features are float32 (n, d) for embeddings and
          float16 or float32 (n, h, w, c) for maps; other columns as NumPy stores them, strings and
          lists of labels as object arrays.

        Raises:
          UsageError: for an unknown column or split.
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
        return self.scanner(markers).scan(markers, options)

    def scanner(self, markers: Iterable[Marker]) -> Scanner:
        """Returns what reads rows as they count after all of `markers`, the store's commits."""
        moment = self.moment
        overlay = moment.overlay if moment else Overlay.read(self.storage, versions(self.storage))
        return Scanner(self.storage, self.spec, Visibility.of(markers), overlay, self.cache)

    def scan_markers(
        self, markers: Sequence[Marker], columns: Sequence[str], views: Sequence[int] | None = None
    ) -> Iterator[Columns]:
        """Streams the rows of some commits only; columns and views as `scan`."""
        options = ScanOptions(tuple(columns), views=None if views is None else tuple(views))
        return self.scanner(self.markers().values()).scan(markers, options)

    def load(
        self,
        columns: Sequence[str] = SCAN_COLUMNS,
        *,
        splits: Sequence[str | None] | None = None,
        labels: Sequence[str] | None = None,
        views: Sequence[int] | None = None,
    ) -> Columns:
        """Reads rows into memory at once; arguments and arrays as `scan`."""
        batches = list(self.scan(columns, splits=splits, labels=labels, views=views))
        if not batches:
            empty: dict[str, Any] = dict.fromkeys(columns, np.empty(0, object))
            if FEATURES in empty:
                dtype = self.spec.dtype if self.spec.is_map else np.float32
                empty[FEATURES] = np.empty((0, *self.spec.feature_shape), dtype)
            return empty
        return {name: np.concatenate([batch[name] for batch in batches]) for name in columns}

    def split_counts(self) -> dict[str | None, int]:
        """Counts view-0 rows by split; None stands for rows without one."""
        counts: Counter[str | None] = Counter()
        for batch in self.scan(["split"], views=[0]):
            counts.update(batch["split"])
        return dict(counts)

    def require_split(self, split: str) -> None:
        """Refuses a split that no row has.

        Raises:
          UsageError: listing the splits there are.
        """
        names = [name for name in self.split_counts() if name is not None]
        if not names:
            raise UsageError(f"--split {split}: the rows of {self.url} have no split")
        if split not in names:
            raise unknown_choice("--split", split, names)

    def quarantined(self, run_id: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Yields the images that could not be used: key, uri, size, etag, kind and message.

        Args:
          run_id: of one run; None means all.
        """
        markers = self.markers().values()
        scanner = self.scanner(markers)
        for marker in markers:
            if run_id in (None, marker.run_id):
                yield from live_quarantined(scanner, marker)

    def ledger(self) -> Ledger:
        """Adds up the ledgers of the committed chunks, without what was superseded."""
        markers = list(self.markers().values())
        return count_ledger(self.scanner(markers), markers)

    def last_summary(self) -> dict[str, Any] | None:
        """Returns the last finished run's summary, or None before the first has finished."""
        try:
            return json.loads(self.storage.read(layout.SUMMARY))
        except FileNotFoundError:
            return None

    def local_model(self) -> AbstractContextManager[Path]:
        """Yields a local path of the stored base, downloaded where need be."""
        return self.storage.local_copy(layout.model_file(self.spec.base.weights_hash))


def _listed(values: Any) -> Any:
    # A lone string would pass for the list of its letters; the options refuse it.
    return values if values is None or isinstance(values, str) else tuple(values)


def open_store(url: str, storage_options: Mapping[str, Any] | None = None) -> FeatureStore:
    """Opens a store for reading.

    Args:
      url: the store's folder, local or any fsspec URL.
      storage_options: for the file system.

    Raises:
      UsageError: when there is no store, or it cannot be reached.
    """
    storage = Storage(str(url), storage_options or {})
    try:
        text = storage.read(layout.SPEC)
    except FileNotFoundError as error:
        raise UsageError(
            f"no feature store at {storage.public_url!r}: {layout.SPEC} is not there; make one "
            f"with python -m pipelines.extract --output {storage.public_url}"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the store at {storage.public_url!r}: {error}") from error
    return FeatureStore(storage, StoreSpec.from_json(text, f"{storage.public_url}/{layout.SPEC}"))


def create_store(storage: Storage, spec: StoreSpec) -> FeatureStore:
    """Creates a store, or joins the one that is there when it holds the same features.

    Args:
      storage: the folder.
      spec: what a new store would hold.

    Returns:
      The store with the spec that counts: the first writer's.

    Raises:
      SpecMismatch: when it holds other features.
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


__all__ = [
    "CorruptStore",
    "FeatureStore",
    "SpecMismatch",
    "create_store",
    "open_store",
]
