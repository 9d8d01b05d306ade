"""The order in which a head sees rows: by blocks of the store, mixed in a pool, one view an image.

A store may be sorted by class and ten times larger than memory. So an epoch reads its row groups in
an order of its own, from many parts in turn (`featurestore.reading.scan`), and shuffles the rows of
a pool: a batch mixes rows from all over the store. An epoch's order depends on the seed and the
epoch's number alone, so that an interrupted training resumes in the order it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

# In `Rows.view`: the image has no other stored view, so this one is for every epoch.
LONE_VIEW = -1


@dataclass(frozen=True)
class Rows:
    """Features in memory.

    Attributes:
      features: (n, *feature_shape) in the dtype the store yields.
      labels: int64 (n,) class indices; of multi-label heads uint8 (n, classes) of 0 and 1.
      content: uint32 (n,) numbers of the images' contents; zeros in shuffled batches.
      view: int8 (n,) which view of its image a row is, or `LONE_VIEW`; zeros in shuffled batches.
    """

    features: np.ndarray
    labels: np.ndarray
    content: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32))
    view: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))

    def __post_init__(self) -> None:
        for name in ("content", "view"):
            given = getattr(self, name)
            if len(given) != len(self.labels):
                object.__setattr__(self, name, np.zeros(len(self.labels), given.dtype))

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Returns some of the rows."""
        return Rows(self.features[rows], self.labels[rows], self.content[rows], self.view[rows])

    @classmethod
    def joined(cls, blocks: Sequence[Rows]) -> Rows:
        """Returns the rows of all blocks, in order."""
        if len(blocks) == 1:
            return blocks[0]
        names = ("features", "labels", "content", "view")
        return cls(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))


@dataclass(frozen=True)
class Order:
    """Of the training rows in one epoch.

    Attributes:
      seed: of the run.
      epoch: counted from 0.
      views: that each training image is stored in; an epoch takes one of them.
    """

    seed: int
    epoch: int = 0
    views: int = 1

    def rng(self) -> np.random.Generator:
        """Returns the source of the order."""
        return np.random.default_rng([self.seed, self.epoch])

    def takes(self, content: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Returns bool (n,): the rows that belong to the epoch.

        Every image goes through all of its views, one an epoch, from a place of its own: after
        `views` epochs each row was taken once.

        Args:
          content: uint32 (n,) as in `Rows`.
          view: int8 (n,) as in `Rows`.

        Example:
          >>> content, view = np.zeros(2, np.uint32), np.array([0, 1], np.int8)
          >>> both = [Order(7, epoch, views=2).takes(content, view) for epoch in (0, 1)]
          >>> (both[0] ^ both[1]).tolist()
          [True, True]
        """
        if self.views == 1:
            return np.ones(len(view), bool)
        turn = (_scrambled(content, self.seed) + np.uint64(self.epoch)) % np.uint64(self.views)
        return (view == LONE_VIEW) | (view == turn)


def _scrambled(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Returns uint64 (n,), uniform whatever the numbers are: the finaliser of SplitMix64."""
    mixed = numbers.astype(np.uint64) + np.random.SeedSequence(seed).generate_state(1, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def cut(
    blocks: Iterator[Rows], batch_size: int, pool_rows: int, rng: np.random.Generator | None
) -> Iterator[Rows]:
    """Cuts blocks of rows into batches, shuffled within a pool.

    Args:
      blocks: rows in the order they are read.
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
        rows = _mixed(pool, rng)
        # Copies: a view would keep what leaves.
        pool = [Rows(rows.features[leave:].copy(), rows.labels[leave:].copy())]
        held -= leave
        yield from _slices(rows, batch_size, leave)
        del rows
    if held:
        yield from _slices(_mixed(pool, rng), batch_size, held)


def _mixed(pool: list[Rows], rng: np.random.Generator | None) -> Rows:
    """Joins blocks and shuffles their rows; empties the pool, so that rows are there twice only."""
    features = np.concatenate([rows.features for rows in pool])
    labels = np.concatenate([rows.labels for rows in pool])
    pool.clear()
    if rng is None:
        return Rows(features, labels)
    order = rng.permutation(len(labels))
    return Rows(features[order], labels[order])


def _slices(rows: Rows, batch_size: int, stop: int) -> Iterator[Rows]:
    for start in range(0, stop, batch_size):
        end = min(start + batch_size, stop)
        yield Rows(rows.features[start:end], rows.labels[start:end])
