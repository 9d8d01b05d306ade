"""The directions in which the rows of a store vary most: their principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from classifier.auditing.rows import AuditRows

# Rows whose covariance is computed. Its leading directions need no more.
DRAWN = 50_000


@dataclass(frozen=True)
class Directions:
    """Principal components of standardised rows.

    Attributes:
      axes: float32 (k, d), of length 1, the one with the most variance first.
      share: float64 (k,), of the whole variance in each.
    """

    axes: np.ndarray
    share: np.ndarray

    def places(self, rows: AuditRows) -> np.ndarray:
        """Returns float32 (n, k): the coordinates of all rows."""
        return np.concatenate([rows.scaled(block) @ self.axes.T for block in rows.blocks()])


def directions(rows: AuditRows, most: int) -> Directions:
    """Computes the first `most` principal components, or d if there are fewer values.

    An axis points to where its largest component is positive, so that a second audit gives the same
    picture.
    """
    from scipy.linalg import eigh

    size = rows.vectors.shape[1]
    drawn = np.arange(len(rows))
    if len(rows) > DRAWN:
        drawn = np.sort(np.random.default_rng(0).choice(len(rows), DRAWN, replace=False))
    scatter = np.zeros((size, size))
    for block in np.array_split(drawn, -(-len(drawn) // 4096)):
        vectors = rows.scaled(block)
        scatter += vectors.T @ vectors
    kept = min(most, size)
    values, vectors = eigh(scatter, subset_by_index=[size - kept, size - 1])
    axes = vectors.T[::-1]
    axes *= np.sign(axes[np.arange(kept), np.abs(axes).argmax(axis=1)])[:, None]
    whole = max(float(np.trace(scatter)), 1e-12)
    return Directions(axes.astype(np.float32), np.maximum(values[::-1], 0) / whole)
