"""Stored features on their way into Keras: from memory when they fit, else streamed and pooled."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from classifier.division import class_numbers, single_labels
from classifier.runtime import import_keras
from classifier.selection import Selection
from classifier.shuffling import LONE_VIEW, Order, Rows, cut

if TYPE_CHECKING:
    import tensorflow as tf

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
    for batch in selection.batches(store, row_columns(selection), batch_size, order):
        rows = labelled(batch, classes, selection.lone)
        if len(rows.labels):
            yield rows


def row_columns(selection: Selection) -> tuple[str, ...]:
    """Returns the columns that `labelled` needs of a selection, beside content_hash."""
    return ("labels", "view", "features", *(("key",) if selection.lone else ()))


def labelled(
    batch: Mapping[str, np.ndarray], classes: Sequence[str], lone: Collection[str] = ()
) -> Rows:
    """Returns the rows of a batch whose label is one of `classes`.

    Args:
      batch: `row_columns` and content_hash.
      classes: names of the classes.
      lone: keys of images that lack some of their views: only the image as it is counts.
    """
    labels = class_numbers(single_labels(batch["labels"]), classes)
    content = [zlib.crc32(value.encode()) for value in batch["content_hash"]]
    view, keep = batch["view"], labels >= 0
    if lone:
        alone = np.array([key in lone for key in batch["key"]], bool)
        keep &= ~alone | (view == 0)
        view = np.where(alone, np.int8(LONE_VIEW), view)
    rows = Rows(batch["features"], labels, np.array(content, np.uint32), view)
    return rows if keep.all() else rows[keep]


def load_rows(
    store: FeatureStore, classes: Sequence[str], selection: Selection, count: int
) -> Rows:
    """Reads the selected rows into memory, once.

    Args:
      store: to read.
      classes: names of the classes.
      selection: the rows.
      count: how many there are, as `divide` counted; bounds the memory.
    """
    dtype = store.spec.dtype if store.spec.is_map else np.float32
    features = np.empty((count, *store.spec.feature_shape), dtype)
    labels, content = np.empty(count, np.int64), np.empty(count, np.uint32)
    view = np.empty(count, np.int8)
    at = 0
    for rows in labelled_batches(store, classes, selection):
        # A chunk committed since the count is left for the next run.
        stop = min(at + len(rows.labels), count)
        rows = rows[: stop - at]
        features[at:stop], labels[at:stop] = rows.features, rows.labels
        content[at:stop], view[at:stop] = rows.content, rows.view
        at = stop
    return Rows(features, labels, content, view)[:at]


def feature_dataset(
    source: FeatureStore | Rows,
    classes: Sequence[str],
    selection: Selection,
    *,
    batch_size: int,
    order: Order | None = None,
    pool_bytes: int = 1 << 30,
) -> tf.data.Dataset:
    """Builds the dataset Keras fits on; every iteration is one epoch in its own order.

    Args:
      source: a store to stream from, or rows already in memory.
      classes: names of the classes.
      selection: the rows; ignored for rows in memory.
      batch_size: rows per batch; the last batch of an epoch may have fewer.
      order: of the rows and their views; None keeps the stored order, and all views.
      pool_bytes: memory of the shuffle pool when streaming.

    Returns:
      Batches of (float32 (n, *feature_shape), int64 (n,)).
    """
    if isinstance(source, Rows):
        return _memory_dataset(source, batch_size, order)

    def epoch(number: int) -> Iterator[Rows]:
        blocks = epoch_blocks(source, classes, selection, order, number)
        rng = order.rng(number) if order else None
        return cut(blocks, batch_size, pool_rows(source, pool_bytes), rng)

    return _stream_dataset(epoch, source.spec.feature_shape)


def pool_rows(store: FeatureStore, pool_bytes: int) -> int:
    """Returns how many rows a pool holds: half, as they are there twice when it is mixed."""
    return max(1, pool_bytes // 2 // store.spec.feature_bytes)


def epoch_blocks(
    store: FeatureStore,
    classes: Sequence[str],
    selection: Selection,
    order: Order | None,
    epoch: int,
) -> Iterator[Rows]:
    """Streams the rows of an epoch, block by block of the store.

    Args:
      store: to read.
      classes: names of the classes.
      selection: the rows.
      order: of the blocks and views; None keeps the stored order, and all views.
      epoch: counted from 0.
    """
    if order is None:
        yield from labelled_batches(store, classes, selection)
        return
    for rows in labelled_batches(store, classes, selection, order=(order.seed, epoch)):
        taken = order.takes(rows.content, rows.view, epoch)
        if taken.any():
            yield rows if taken.all() else rows[taken]


def epoch_index(rows: Rows, order: Order | None, epoch: int) -> np.ndarray:
    """Returns the places of an epoch's rows among rows in memory: int64 (n,)."""
    if order is None:
        return np.arange(len(rows.labels))
    return order.rng(epoch).permutation(np.flatnonzero(order.takes(rows.content, rows.view, epoch)))


def _memory_dataset(rows: Rows, batch_size: int, order: Order | None) -> tf.data.Dataset:
    """Gathers each batch from one tensor: three times as fast as a Python generator."""
    import_keras()
    import tensorflow as tf

    features, labels = tf.constant(rows.features), tf.constant(rows.labels)
    epochs = count()

    def generate() -> Iterator[np.ndarray]:
        yield epoch_index(rows, order, next(epochs))

    def gather(index):
        return tf.cast(tf.gather(features, index), tf.float32), tf.gather(labels, index)

    signature = tf.TensorSpec((None,), tf.int64)
    index = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return index.unbatch().batch(batch_size).map(gather).prefetch(2)


def _stream_dataset(
    epoch: Callable[[int], Iterator[Rows]], shape: Sequence[int]
) -> tf.data.Dataset:
    import_keras()
    import tensorflow as tf

    epochs = count()

    def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in epoch(next(epochs)):
            yield rows.features.astype(np.float32, copy=False), rows.labels

    signature = (
        tf.TensorSpec((None, *shape), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)
