"""Ridge regression from sufficient statistics: one pass over rows, then every penalty at once.

A ridge head needs the number of rows, the means of features and targets, and two centred sums:
`scatter` of features with features, and `cross` of features with targets. These can be added and
subtracted. So rows may be read in any order and on any machine, and leaving out a fold costs one
subtraction instead of another pass. One eigendecomposition of the scatter then gives the
coefficients for every penalty (Hastie, Tibshirani and Friedman, "The Elements of Statistical
Learning", 3.4.1). Rows are centred and sums are float64: sums of plain squares would cancel where a
feature's mean is large compared to its deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from classifier.heads.head import Standard, standard_of

# Further directions than the rank, so that a random basis misses none of the scatter.
_SPARE = 8
# What a basis may leave out of the scatter, as a fraction of its trace.
_LEFT_OUT = 1e-10
# Directions with less than this fraction of the largest scatter are rounding errors, not data.
LEAST_RELATIVE_SCATTER = 1e-12


@dataclass(frozen=True)
class Statistics:
    """What ridge regression needs of some rows; all float64.

    Attributes:
      weight: the sum of the rows' weights; their number if rows have no weights.
      mean: (d,) of the features.
      target_mean: (k,) of the targets.
      scatter: (d, d) sum of products of centred features.
      cross: (d, k) sum of products of centred features and centred targets.
      first: 0; in a tile, which holds r rows of both sums, the number of its first row. The tile's
        scatter is (r, d - first), as what is left of the diagonal stands in other tiles.
    """

    weight: float
    mean: np.ndarray
    target_mean: np.ndarray
    scatter: np.ndarray
    cross: np.ndarray
    first: int = 0

    @classmethod
    def empty(cls, features: int, targets: int) -> Statistics:
        """Returns the statistics of no rows."""
        mean, target_mean = np.zeros(features), np.zeros(targets)
        scatter, cross = np.zeros((features, features)), np.zeros((features, targets))
        return cls(0.0, mean, target_mean, scatter, cross)

    @classmethod
    def of(
        cls, features: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
    ) -> Statistics:
        """Returns the statistics of a block of rows.

        Args:
          features: of any float dtype (n, d).
          targets: (n, k).
          weights: (n,), at least 0; None means 1 each.

        Example:
          >>> rows = np.array([[0.0], [2.0]])
          >>> Statistics.of(rows, rows).scatter
          array([[2.]])
        """
        x, y = features.astype(np.float64), targets.astype(np.float64)
        total = float(len(x) if weights is None else weights.sum())
        if not total > 0:
            return cls.empty(x.shape[1], y.shape[1])
        shares = np.full(len(x), 1 / total) if weights is None else weights / total
        mean, target_mean = shares @ x, shares @ y
        x -= mean
        y -= target_mean
        if weights is not None:
            root = np.sqrt(weights.astype(np.float64))[:, None]
            x *= root
            y *= root
        return cls(total, mean, target_mean, x.T @ x, x.T @ y)

    def __add__(self, other: Statistics) -> Statistics:
        """Returns the statistics of both sets of rows (Chan et al., 1979)."""
        if not (self.weight and other.weight):
            return other if other.weight else self
        total = self.weight + other.weight
        step, target_step = other.mean - self.mean, other.target_mean - self.target_mean
        share = other.weight / total
        own = step[self.first : self.first + len(self.cross)]
        scatter = np.multiply.outer(self.weight * share * own, step[self.first :])
        scatter += self.scatter
        scatter += other.scatter
        cross = np.multiply.outer(self.weight * share * own, target_step)
        cross += self.cross + other.cross
        mean = self.mean + share * step
        target_mean = self.target_mean + share * target_step
        return Statistics(total, mean, target_mean, scatter, cross, self.first)

    def __sub__(self, other: Statistics) -> Statistics:
        """Returns the statistics of these rows without those of `other`, which are some of them."""
        if self.weight - other.weight <= 1e-9 * self.weight:
            return Statistics.empty(*self.cross.shape)
        # The formula for adding holds for negative weights too.
        return self + Statistics(
            -other.weight, other.mean, other.target_mean, -other.scatter, -other.cross
        )

    def tiles(self, most_bytes: int) -> Iterator[Statistics]:
        """Yields these statistics in pieces, of which those of the same rows can be added.

        Args:
          most_bytes: of the sums of a tile; one that holds a single row may be larger.
        """
        features, targets = self.cross.shape
        rows = max(1, most_bytes // (8 * (features + targets)))
        for first in range(0, features, rows):
            own = slice(first, first + rows)
            yield replace(
                self, scatter=self.scatter[own, first:], cross=self.cross[own], first=first
            )

    @classmethod
    def joined(cls, tiles: Iterable[Statistics]) -> Statistics:
        """Returns the statistics that `tiles` split; the tiles may come in any order.

        Example:
          >>> rows = np.arange(12.0).reshape(4, 3) ** 2
          >>> whole = Statistics.of(rows, rows)
          >>> parts = list(whole.tiles(48))
          >>> len(parts), np.array_equal(Statistics.joined(parts[::-1]).scatter, whole.scatter)
          (3, True)
        """
        ordered = sorted(tiles, key=lambda tile: tile.first)
        scatter = np.zeros((len(ordered[0].mean),) * 2)
        for tile in ordered:
            own = slice(tile.first, tile.first + len(tile.cross))
            scatter[own, tile.first :] = tile.scatter
            scatter[tile.first :, own] = tile.scatter.T
        cross = np.concatenate([tile.cross for tile in ordered])
        return replace(ordered[0], scatter=scatter, cross=cross)

    def standard(self, channels: int) -> Standard:
        """Returns the mean and deviation of each channel, by which gradient heads standardise too.

        Args:
          channels: in the last axis of a row; all places of a map are taken together.
        """
        means = self.mean.reshape(-1, channels)
        within = (np.diag(self.scatter) / max(self.weight, 1e-300)).reshape(-1, channels)
        return standard_of(means.mean(axis=0), within.mean(axis=0) + means.var(axis=0))


@dataclass(frozen=True)
class RidgePath:
    """The ridge solutions of one set of rows for several penalties.

    Attributes:
      mean: float64 (d,) of the features.
      target_mean: float64 (k,), the score of the mean row.
      weights: float64 (d, penalties, k), for features in their own units.
    """

    mean: np.ndarray
    target_mean: np.ndarray
    weights: np.ndarray

    @cached_property
    def _single(self) -> np.ndarray:
        return self.weights.reshape(len(self.mean), -1).astype(np.float32)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 (n, penalties, k) predicted targets.

        Args:
          features: of any float dtype (n, d).
        """
        centred = features.astype(np.float32) - self.mean.astype(np.float32)
        scores = (centred @ self._single).reshape(len(features), *self.weights.shape[1:])
        return scores + self.target_mean.astype(np.float32)

    def only(self, penalty: int) -> RidgePath:
        """Returns the path with only one of its penalties, by number."""
        return RidgePath(self.mean, self.target_mean, self.weights[:, [penalty]])


def fit_path(
    statistics: Statistics, l2: Sequence[float], standard: Standard | None = None
) -> RidgePath:
    """Solves ridge regression with an intercept for every penalty.

    Args:
      statistics: of the training rows.
      l2: penalties on the squares of the weights of standardised features. They are added to the
        MEAN squared error of a row, so scikit-learn's ``Ridge(alpha)`` is ``l2 = alpha / n``. At 0,
        directions without any scatter get no weight (least norm).
      standard: of the features, on which the penalties act; None leaves features as they are.

    Returns:
      Weights for the features in their own units.
    """
    features, targets = statistics.cross.shape
    if standard is None:
        deviation = np.ones(features)
    else:
        deviation = np.resize(standard.deviation.astype(np.float64), features)
    share = max(statistics.weight, 1e-300)
    scatter = statistics.scatter / share / deviation / deviation[:, None]
    values, vectors = eigen(scatter, math.ceil(statistics.weight))
    projected = vectors.T @ (statistics.cross / share / deviation[:, None])
    floor = LEAST_RELATIVE_SCATTER * max(values[-1], 1e-300)
    damped = np.maximum(values, 0)[:, None] + np.asarray(l2, np.float64)
    gains = np.divide(1, damped, out=np.zeros_like(damped), where=damped > floor)
    solved = vectors @ (gains[:, :, None] * projected[:, None, :]).reshape(len(values), -1)
    solved /= deviation[:, None]
    return RidgePath(
        statistics.mean, statistics.target_mean, solved.reshape(features, len(l2), targets)
    )


def eigen(scatter: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the eigenvalues and eigenvectors of a scatter; of value 0 perhaps only some.

    The scatter of fewer rows than features has no more directions than rows. Products with random
    vectors span them (Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061), so that
    only a small matrix is decomposed. If they miss a part, because the rank is larger, the whole
    scatter is decomposed.

    Args:
      scatter: float64 (d, d), positive semidefinite.
      rank: that it probably has at most.

    Returns:
      (float64 (r,) ascending, float64 (d, r)).
    """
    size, width = len(scatter), rank + _SPARE
    if 2 * width < size:
        probes = np.random.default_rng(0).standard_normal((size, width))
        basis = np.linalg.qr(scatter @ probes).Q
        values, vectors = np.linalg.eigh(basis.T @ (scatter @ basis))
        if np.trace(scatter) - values.sum() <= _LEFT_OUT * np.trace(scatter):
            return values, basis @ vectors
    return np.linalg.eigh(scatter)
