"""The order in which a head sees rows: by blocks of the store, mixed in a pool, one view per image.

A store may be sorted by class and ten times larger than memory. So an epoch reads the row groups in
an order of its own, from many parts in turn (`featurestore.reading.scan`), and shuffles them in a
pool: a batch mixes rows from all over the store. An epoch's order depends only on the seed and the
epoch's number, so an interrupted training resumes in the order that it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# In `Rows.view`: the image has no other stored view, so every epoch takes this one.
LONE_VIEW = -1
ROW_ARRAYS = ("features", "labels", "content", "view")


@dataclass(frozen=True)
class Rows:
    """Features in memory.

    Attributes:
      features: (n, *feature_shape) in the dtype the store yields.
      labels: int64 (n,) class indices; for multi-label heads uint8 (n, classes) of 0 and 1.
      content: uint32 (n,) numbers of the images' contents; zeros if not given.
      view: int8 (n,) which view of its image a row is, or `LONE_VIEW`; zeros if not given.
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

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Returns some of the rows."""
        return Rows(self.features[rows], self.labels[rows], self.content[rows], self.view[rows])

    def __setitem__(self, places: slice, rows: Rows) -> None:
        """Overwrites some of the rows."""
        for name in ROW_ARRAYS:
            getattr(self, name)[places] = getattr(rows, name)

    @classmethod
    def joined(cls, blocks: Sequence[Rows]) -> Rows:
        """Returns the rows of all blocks, in order."""
        if len(blocks) == 1:
            return blocks[0]
        arrays = ([getattr(block, name) for block in blocks] for name in ROW_ARRAYS)
        return cls(*map(np.concatenate, arrays))


def flattened(features: np.ndarray) -> np.ndarray:
    """Returns features (n, ...) as (n, d); n may be 0.

    Example:
      >>> flattened(np.empty((0, 2, 3))).shape
      (0, 6)
    """
    return features.reshape(len(features), math.prod(features.shape[1:]))


@dataclass(frozen=True)
class Order:
    """The order of the training rows in one epoch.

    Attributes:
      seed: the first seed of the run.
      epoch: counted from 0.
      views: stored per training image; an epoch takes one of them.
    """

    seed: int
    epoch: int = 0
    views: int = 1

    def rng(self) -> np.random.Generator:
        """Returns the random generator that decides the order."""
        return np.random.default_rng([self.seed, self.epoch])

    def takes(self, content: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Returns bool (n,): the rows that belong to the epoch.

        Every image goes through all of its views, one per epoch, and each image starts at a view of
        its own. After `views` epochs each row was taken once.

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
    """Returns uint64 (n,), uniform whatever the numbers are, by the finaliser of SplitMix64."""
    mixed = numbers.astype(np.uint64) + np.random.SeedSequence(seed).generate_state(1, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
