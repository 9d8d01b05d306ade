"""Reads stored features for heads: from memory if they fit, else streamed through a pool."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifier.features.division import single_labels
from classifier.features.order import LONE_VIEW, Order, Rows
from classifier.features.selection import Selection
from featurestore.labels.numbers import class_numbers, several_labels
from featurestore.reading.pool import cut

if TYPE_CHECKING:
    from featurestore import FeatureStore

SIDES = ("train", "validation")


def labelled_batches(
    store: FeatureStore,
    classes: Sequence[str],
    selection: Selection,
    batch_size: int = 1024,
    order: tuple[int, ...] | None = None,
) -> Iterator[Rows]:
    """Streams the selected rows whose label is one of `classes`.

    Args:
      store: to read.
      classes: names of the classes.
      selection: the rows.
      batch_size: rows per block at most.
      order: seeds a random order of row groups; None keeps the stored order.
    """
    batches = selection.batches(store, row_columns(selection), batch_size, order)
    return labelled(batches, classes, selection)


def row_columns(selection: Selection) -> tuple[str, ...]:
    """Returns the columns, beside content_hash, that `labelled` needs of a selection's rows."""
    return ("labels", "view", "features", *(("key",) if selection.lone else ()))


def labelled(
    batches: Iterable[Mapping[str, np.ndarray]], classes: Sequence[str], selection: Selection
) -> Iterator[Rows]:
    """Yields the rows of each batch whose label is one of `classes`; passes over empty batches.

    Args:
      batches: `row_columns` and content_hash of rows.
      classes: names of the classes.
      selection: the rows.
    """
    for batch in batches:
        rows = _labelled(batch, classes, selection)
        if len(rows.labels):
            yield rows


def _labelled(
    batch: Mapping[str, np.ndarray], classes: Sequence[str], selection: Selection
) -> Rows:
    if selection.multi_label:
        labels = several_labels(batch["labels"], classes)
        keep = labels.max(axis=1) > 0
    else:
        labels = class_numbers(single_labels(batch["labels"]), classes)
        keep = labels >= 0
    # Not `content_numbers`: the folds of ridge and the views of an epoch depend on these numbers.
    content = [zlib.crc32(value.encode()) for value in batch["content_hash"]]
    view = batch["view"]
    if selection.lone:
        alone = np.array([key in selection.lone for key in batch["key"]], bool)
        # If an image lacks some of its views, only the unaugmented one counts.
        keep &= ~alone | (view == 0)
        view = np.where(alone, np.int8(LONE_VIEW), view)
    rows = Rows(batch["features"], labels, np.array(content, np.uint32), view)
    return rows if keep.all() else rows[keep]


def row_bytes(store: FeatureStore, classes: Sequence[str], selection: Selection) -> int:
    """Returns the bytes of a row in memory: features, labels, content number and view.

    Args:
      store: that holds the row.
      classes: names of the classes.
      selection: that takes the row.
    """
    labels = len(classes) if selection.multi_label else 8
    return store.spec.feature_bytes + labels + 5


def load_rows(
    store: FeatureStore,
    classes: Sequence[str],
    selection: Selection,
    count: int,
) -> Rows:
    """Reads the selected rows into memory.

    Args:
      store: to read.
      classes: names of the classes.
      selection: the rows.
      count: how many there are, as `divide` counted; no more are read.
    """
    several = selection.multi_label
    loaded = Rows(
        np.empty((count, *store.spec.feature_shape), store.spec.read_dtype),
        np.empty((count, len(classes)), np.uint8) if several else np.empty(count, np.int64),
    )
    at = 0
    for rows in labelled_batches(store, classes, selection):
        stop = min(at + len(rows.labels), count)
        loaded[at:stop] = rows[: stop - at]
        at = stop
    return loaded[:at]


def epoch_batches(
    source: FeatureStore | Rows,
    classes: Sequence[str],
    selection: Selection,
    *,
    batch_size: int,
    order: Order | None = None,
    pool_bytes: int = 1 << 30,
) -> Iterator[Rows]:
    """Streams an epoch of rows in batches.

    Args:
      source: a store to stream from, or rows in memory.
      classes: names of the classes.
      selection: the rows; ignored for rows in memory.
      batch_size: rows per batch; the last batch may have fewer.
      order: of the rows and their views; None keeps the stored order and all views.
      pool_bytes: memory of the pool that shuffles streamed rows.
    """
    if isinstance(source, Rows):
        index = epoch_index(source, order)
        for start in range(0, len(index), batch_size):
            yield source[index[start : start + batch_size]]
        return
    blocks = epoch_blocks(source, classes, selection, order)
    # Half, because a pool's rows are in memory twice while it is shuffled.
    pool_rows = max(1, pool_bytes // 2 // row_bytes(source, classes, selection))
    yield from cut(blocks, batch_size, pool_rows, order.rng() if order else None)


def epoch_blocks(
    store: FeatureStore, classes: Sequence[str], selection: Selection, order: Order | None
) -> Iterator[Rows]:
    """Streams the rows of an epoch, one block of the store after the other.

    Args:
      store: to read.
      classes: names of the classes.
      selection: the rows.
      order: of the blocks and views; None keeps the stored order and all views.
    """
    if order is None:
        yield from labelled_batches(store, classes, selection)
        return
    for rows in labelled_batches(store, classes, selection, order=(order.seed, order.epoch)):
        taken = order.takes(rows.content, rows.view)
        if taken.any():
            yield rows if taken.all() else rows[taken]


def epoch_index(rows: Rows, order: Order | None) -> np.ndarray:
    """Returns int64 (n,): where an epoch's rows are among rows in memory."""
    if order is None:
        return np.arange(len(rows.labels))
    return order.rng().permutation(np.flatnonzero(order.takes(rows.content, rows.view)))
