"""Streams labelled rows epoch by epoch: shuffled, divided among readers, in bounded memory.

A survey of the small columns counts the wanted rows of each row group. After it, every reader knows
without asking the others which row groups an epoch reads, in which order, and which rows of them
are its own. An epoch is shuffled as a training of this project shuffles it: parts and row groups
come in a random order, and their rows are mixed in a pool.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from featurestore.epochs.shards import Shard
from featurestore.errors import UsageError
from featurestore.io.readahead import interleaved
from featurestore.labels.numbers import class_numbers, several_labels
from featurestore.reading.pool import cut
from featurestore.reading.rows import Columns
from featurestore.reading.scan import ScanOptions
from featurestore.schema import FEATURES
from featurestore.store import FeatureStore

UNLABELLED, OF_OTHER_CLASSES = "without a label", "of other classes"


@dataclass(frozen=True)
class EpochOptions:
    """Which rows an epoch has, and in what order.

    Attributes:
      splits: take rows of these splits; None takes all rows, and None among the splits takes rows
        without a split.
      views: take these views; by default the unaugmented images only, None takes all.
      classes: names, in the order of their numbers; None takes all labels of the rows, sorted.
      multi_label: whether a row may be of several classes.
      shuffle: whether each epoch has an order of its own; otherwise rows come as they are stored.
      seed: of the order.
      memory: bytes of the pool that mixes rows, for each reader.
    """

    splits: Sequence[str | None] | None = None
    views: Sequence[int] | None = (0,)
    classes: Sequence[str] | None = None
    multi_label: bool = False
    shuffle: bool = True
    seed: int = 0
    memory: int = 256 << 20

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):
            raise UsageError(f"classes must be a list of names, got {self.classes!r}")
        twice = [name for name, count in Counter(self.classes or ()).items() if count > 1]
        if twice:
            raise UsageError(f"classes must be distinct names, and {twice[0]!r} is there twice")

    @property
    def scan(self) -> ScanOptions:
        """What the survey reads: the labels of the rows, with any label or none."""
        # A lone string stays one, so that the options can refuse it.
        splits = self.splits if isinstance(self.splits, str | None) else tuple(self.splits)
        views = None if self.views is None else tuple(self.views)
        return ScanOptions(("labels",), splits, views=views)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Examples:
    """Rows of an epoch.

    Attributes:
      features: (n, *feature_shape).
      labels: int64 (n,) numbers of classes; for several labels uint8 (n, classes) of 0 and 1.
    """

    features: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | np.ndarray) -> Examples:
        """Returns some of the rows."""
        return Examples(self.features[rows], self.labels[rows])

    @classmethod
    def joined(cls, blocks: Sequence[Self]) -> Self:
        """Returns the rows of all blocks, in order."""
        if len(blocks) == 1:
            return blocks[0]
        return cls(
            np.concatenate([block.features for block in blocks]),
            np.concatenate([block.labels for block in blocks]),
        )


@dataclass(frozen=True)
class Epochs:
    """The labelled rows of a store, as they were when this object was made.

    Attributes:
      store: at one moment.
      options: which rows, in what order.
      classes: names, in the order of their numbers.
      places: (chunk_id, number) of the row groups with wanted rows, in the stored order.
      counts: int64 (len(places),) their wanted rows.
      left_out: rows that were left out, by reason: `UNLABELLED` or `OF_OTHER_CLASSES`.
    """

    store: FeatureStore
    options: EpochOptions
    classes: tuple[str, ...]
    places: tuple[tuple[str, int], ...]
    counts: np.ndarray
    left_out: Mapping[str, int]

    @classmethod
    def of(cls, store: FeatureStore, options: EpochOptions | None = None) -> Epochs:
        """Surveys a store: reads its small columns, and none of its features.

        Args:
          store: to read. Readers in several processes must see the same rows: if the store may
            grow meanwhile, give all of them the same `FeatureStore.at_moment`.
          options: which rows, in what order.

        Raises:
          UsageError: when there are no labelled rows, or a row has several labels unexpectedly.

        Warns:
          UserWarning: with the number of rows that are left out.
        """
        store, options = store.at_this_moment(), options or EpochOptions()
        survey = _survey(store, options)
        if not len(survey.counts):
            raise _nothing(store, options)
        if survey.left_out:
            reasons = " and ".join(f"{count} rows {why}" for why, count in survey.left_out.items())
            warnings.warn(f"{store.url}: {reasons} are left out", stacklevel=2)
        return survey

    def __len__(self) -> int:
        """Returns the rows of an epoch."""
        return int(self.counts.sum())

    def reconnected(self) -> Epochs:
        """Returns these epochs with connections of their own, for use after a fork."""
        store = replace(self.store, storage=replace(self.store.storage))
        return replace(self, store=store)

    def batches(
        self, batch_size: int, epoch: int = 0, shard: Shard | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Streams an epoch, or one reader's share of it.

        Args:
          batch_size: rows per batch; the last batch may have fewer.
          epoch: counted from 0; with the seed it decides the order.
          shard: whose share; None for the whole epoch.

        Yields:
          Features as `FeatureStore.scan` gives them, and labels: int64 (n,) numbers of classes, or
          uint8 (n, classes) of 0 and 1 for several labels.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size!r}")
        shuffled = self.options.shuffle
        rng = np.random.default_rng([self.options.seed, epoch]) if shuffled else None
        shard = shard or Shard()
        order = self._order(rng)
        rows = shard.rows(len(self), batch_size)
        # Half, because a pool's rows are in memory twice while it is shuffled.
        held = self.options.memory // 2 // self.store.spec.feature_bytes if shuffled else 1
        mixer = np.random.default_rng([self.options.seed, epoch, rows.start]) if shuffled else None
        for batch in cut(self._blocks(order, rows), batch_size, held, mixer):
            yield batch.features, batch.labels

    def _order(self, rng: np.random.Generator | None) -> np.ndarray:
        """Returns int64 (len(places),): the row groups in the order of an epoch."""
        numbers = np.arange(len(self.places))
        if rng is None:
            return numbers
        chunks = np.array([chunk_id for chunk_id, _ in self.places])
        parts = np.split(numbers, np.flatnonzero(chunks[1:] != chunks[:-1]) + 1)
        mixed = (iter(rng.permutation(parts[part])) for part in rng.permutation(len(parts)))
        return np.array(list(interleaved(mixed, rng)), np.int64)

    def _blocks(self, order: np.ndarray, rows: range) -> Iterator[Examples]:
        """Yields the rows of a share, given as their places in the epoch."""
        ends = np.cumsum(self.counts[order])
        starts = ends - self.counts[order]
        own = np.flatnonzero((starts < rows.stop) & (ends > rows.start))
        markers = self.store.markers()
        scanner = self.store.scanner(markers.values())
        options = replace(
            self.options.scan, columns=("labels", FEATURES), labels=tuple(self.classes)
        )
        places = (self.places[number] for number in order[own])
        for number, block in zip(own, scanner.read_groups(markers, places, options), strict=True):
            assert block is not None, "commits and labels of a moment do not change"
            wanted = slice(max(0, rows.start - starts[number]), rows.stop - starts[number])
            yield self._examples(block)[wanted]

    def _examples(self, block: Columns) -> Examples:
        labels = block["labels"]
        if self.options.multi_label:
            return Examples(block[FEATURES], several_labels(labels, self.classes))
        return Examples(block[FEATURES], class_numbers([row[0] for row in labels], self.classes))


def _survey(store: FeatureStore, options: EpochOptions) -> Epochs:
    """Counts the wanted rows of each row group, and finds the classes."""
    known = None if options.classes is None else frozenset(options.classes)
    markers = store.markers()
    found: set[str] = set()
    places, counts, left_out = [], [], Counter[str]()
    for marker, number, block in store.scanner(markers.values()).scan_groups(
        markers.values(), options.scan
    ):
        wanted = 0
        for row in () if block is None else block["labels"]:
            if len(row) > 1 and not options.multi_label:
                raise _several(store, row)
            if known is None:
                found.update(row)
            if not len(row):
                left_out[UNLABELLED] += 1
            elif known is None or not known.isdisjoint(row):
                wanted += 1
            else:
                left_out[OF_OTHER_CLASSES] += 1
        if wanted:
            places.append((marker.chunk_id, number))
            counts.append(wanted)
    classes = tuple(sorted(found) if options.classes is None else options.classes)
    return Epochs(store, options, classes, tuple(places), np.array(counts, np.int64), left_out)


def _several(store: FeatureStore, labels: Sequence[str]) -> UsageError:
    return UsageError(
        f"{store.url}: one label per row is needed here, and a row has {len(labels)}: "
        f"{', '.join(map(repr, labels[:3]))}; ask for multi_label=True, or give each image one "
        "label with python -m featurestore relabel"
    )


def _nothing(store: FeatureStore, options: EpochOptions) -> UsageError:
    asked = [f"of splits {list(options.splits)!r}"] if options.splits is not None else []
    asked += [f"of classes {list(options.classes)!r}"] if options.classes is not None else []
    found = ", ".join(f"{split!r} ({count})" for split, count in store.split_counts().items())
    return UsageError(
        f"{store.url} has no labelled rows {' and '.join(asked)}".rstrip()
        + f"; its splits, with their rows: {found or 'none'}"
    )
