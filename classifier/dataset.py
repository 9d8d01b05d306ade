"""Stored features on their way into Keras: from memory when they fit, else streamed and pooled."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from classifier.division import Selection, class_numbers, single_labels
from classifier.runtime import import_keras
from classifier.tally import several_labels

if TYPE_CHECKING:
    import tensorflow as tf

    from featurestore import FeatureStore

MEMORY_BUDGET = 1 << 30
SIDES = ("train", "validation")


@dataclass(frozen=True)
class Rows:
    """Features in memory.

    Attributes:
      features: (n, *feature_shape) in the dtype the store yields.
      labels: int64 (n,) class indices; of multi-label heads uint8 (n, classes) of 0 and 1.
      content: uint32 (n,) numbers of the images' contents, to choose folds by; (0,) in batches.
    """

    features: np.ndarray
    labels: np.ndarray
    content: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32))

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Returns some of the rows."""
        return Rows(self.features[rows], self.labels[rows], self.content[rows])

    @classmethod
    def joined(cls, blocks: Sequence[Rows]) -> Rows:
        """Returns the rows of all blocks, in order."""
        if len(blocks) == 1:
            return blocks[0]
        names = ("features", "labels", "content")
        return cls(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))


def labelled_batches(
    store: FeatureStore,
    classes: Sequence[str],
    selection: Selection,
    batch_size: int = 1024,
    multi_label: bool = False,
) -> Iterator[Rows]:
    """Streams the selected rows whose label is one of `classes`, in stored order."""
    for batch in selection.batches(store, ("labels", "features"), batch_size):
        rows = labelled(batch, classes, multi_label)
        if len(rows.labels):
            yield rows


def labelled(
    batch: Mapping[str, np.ndarray], classes: Sequence[str], multi_label: bool = False
) -> Rows:
    """Returns the rows of a batch whose label is one of `classes`.

    Args:
      batch: columns features, labels and content_hash.
      classes: names.
      multi_label: whether a row may have several labels.
    """
    if multi_label:
        labels = several_labels(batch["labels"], classes)
        keep = labels.max(axis=1) > 0
    else:
        labels = class_numbers(single_labels(batch["labels"]), classes)
        keep = labels >= 0
    content = [zlib.crc32(value.encode()) for value in batch["content_hash"]]
    rows = Rows(batch["features"], labels, np.array(content, np.uint32))
    return rows if keep.all() else rows[keep]


def load_rows(
    store: FeatureStore,
    classes: Sequence[str],
    selection: Selection,
    count: int,
    multi_label: bool = False,
) -> Rows:
    """Reads the selected rows into memory, once.

    Args:
      count: how many there are, as `divide` counted; bounds the memory.
    """
    dtype = store.spec.dtype if store.spec.is_map else np.float32
    features = np.empty((count, *store.spec.feature_shape), dtype)
    labels, content = np.empty(count, np.int64), np.empty(count, np.uint32)
    if multi_label:
        labels = np.empty((count, len(classes)), np.uint8)
    at = 0
    for rows in labelled_batches(store, classes, selection, multi_label=multi_label):
        # A chunk committed since the count is left for the next run.
        stop = min(at + len(rows.labels), count)
        rows = rows[: stop - at]
        features[at:stop], labels[at:stop] = rows.features, rows.labels
        content[at:stop] = rows.content
        at = stop
    return Rows(features, labels, content)[:at]


def cut(
    blocks: Iterator[Rows], batch_size: int, pool_rows: int, rng: np.random.Generator | None
) -> Iterator[Rows]:
    """Cuts blocks of rows into batches, shuffled within a pool.

    Args:
      blocks: rows in stored order.
      batch_size: rows per batch; the last may have fewer, none is dropped.
      pool_rows: rows gathered before a shuffle; at least a batch.
      rng: of the shuffle; None keeps the order.
    """
    pool: list[Rows] = []
    held = 0
    for block in blocks:
        pool.append(block)
        held += len(block.labels)
        if held < max(pool_rows, batch_size):
            continue
        # Half of the pool stays to mix with what comes next; whole batches leave.
        leave = max(batch_size, (held // 2) // batch_size * batch_size) if rng else held
        leave = leave // batch_size * batch_size
        rows = _joined(pool, rng)
        pool = [Rows(rows.features[leave:], rows.labels[leave:])]
        held -= leave
        yield from _slices(rows, batch_size, leave)
    if held:
        yield from _slices(_joined(pool, rng), batch_size, held)


def _joined(pool: list[Rows], rng: np.random.Generator | None) -> Rows:
    features = np.concatenate([rows.features for rows in pool])
    labels = np.concatenate([rows.labels for rows in pool])
    if rng is None:
        return Rows(features, labels)
    order = rng.permutation(len(labels))
    return Rows(features[order], labels[order])


def _slices(rows: Rows, batch_size: int, stop: int) -> Iterator[Rows]:
    for start in range(0, stop, batch_size):
        end = min(start + batch_size, stop)
        yield Rows(rows.features[start:end], rows.labels[start:end])


def feature_dataset(
    source: FeatureStore | Rows,
    classes: Sequence[str],
    selection: Selection,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    pool_bytes: int = MEMORY_BUDGET,
) -> tf.data.Dataset:
    """Builds the dataset Keras fits on; every iteration is one epoch in its own order.

    Args:
      source: a store to stream from, or rows already in memory.
      classes: names of the classes.
      selection: the rows; ignored for rows in memory.
      batch_size: rows per batch; the last batch of an epoch may have fewer.
      shuffle_seed: of the order, another one each epoch; None keeps the stored order.
      pool_bytes: memory of the shuffle pool when streaming.

    Returns:
      Batches of (float32 (n, *feature_shape), int64 (n,)).
    """
    if isinstance(source, Rows):
        return _memory_dataset(source, batch_size, shuffle_seed)
    # Half: while a pool is shuffled its rows are there twice.
    pool_rows = max(1, pool_bytes // 2 // source.spec.feature_bytes)

    def epoch(rng: np.random.Generator | None) -> Iterator[Rows]:
        return cut(labelled_batches(source, classes, selection), batch_size, pool_rows, rng)

    return _stream_dataset(epoch, source.spec.feature_shape, shuffle_seed)


def _memory_dataset(rows: Rows, batch_size: int, seed: int | None) -> tf.data.Dataset:
    """Gathers each batch from one tensor: three times as fast as a Python generator."""
    import_keras()
    import tensorflow as tf

    features, labels = tf.constant(rows.features), tf.constant(rows.labels)
    order = tf.data.Dataset.range(len(rows.labels))
    if seed is not None:
        order = order.shuffle(len(rows.labels), seed=seed, reshuffle_each_iteration=True)

    def gather(index):
        return tf.cast(tf.gather(features, index), tf.float32), tf.gather(labels, index)

    return order.batch(batch_size).map(gather).prefetch(2)


def _stream_dataset(
    epoch: Callable[..., Iterator[Rows]], shape: Sequence[int], seed: int | None
) -> tf.data.Dataset:
    import_keras()
    import tensorflow as tf

    epochs = 0

    def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal epochs
        rng = None if seed is None else np.random.default_rng([seed, epochs])
        epochs += 1
        for rows in epoch(rng):
            yield rows.features.astype(np.float32, copy=False), rows.labels

    signature = (
        tf.TensorSpec((None, *shape), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)
