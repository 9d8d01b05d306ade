"""Confidence intervals: exact for an accuracy, a paired bootstrap for the difference of two heads.

Differences have the percentile intervals of Efron, "Better bootstrap confidence intervals" (1987),
section 1. Rows are not drawn one by one: among n rows drawn with replacement, the numbers of rows
that only one head classifies correctly are multinomial, so 2,000 resamples cost the same for any n.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
      estimate: on the evaluated rows.
      lower: end of the interval.
      upper: end of the interval.
      rows: number of evaluated rows.
      level: the share of such intervals that contain the true figure.
      resamples: number of bootstrap resamples; 0 for an exact interval.
    """

    estimate: float
    lower: float
    upper: float
    rows: int
    level: float = LEVEL
    resamples: int = RESAMPLES

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)


def accuracy_interval(hits: int, rows: int) -> Interval:
    """Returns an accuracy with its exact interval.

    The interval is that of Clopper and Pearson, "The use of confidence or fiducial limits
    illustrated in the case of the binomial" (1934), exact for any number of rows and mistakes.

    Args:
      hits: number of correctly classified rows.
      rows: number of all rows, at least 1.

    Example:
      >>> found = accuracy_interval(90, 100)
      >>> found.estimate, round(found.lower, 2), round(found.upper, 2)
      (0.9, 0.82, 0.95)
      >>> found = accuracy_interval(100, 100)
      >>> found.estimate, round(found.lower, 2), found.upper
      (1.0, 0.96, 1.0)
    """
    # `scipy.stats` has the same by name, but its import takes longer than a whole evaluation.
    from scipy.special import betaincinv

    misses, tail = rows - hits, (1 - LEVEL) / 2
    lower = float(betaincinv(hits, misses + 1, tail)) if hits else 0.0
    upper = float(betaincinv(hits + 1, misses, 1 - tail)) if misses else 1.0
    return Interval(hits / rows, lower, upper, rows, resamples=0)


def difference_interval(
    first: np.ndarray,
    second: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Estimates the difference of two heads' accuracies on the same rows, drawn in pairs.

    Args:
      first: bool (n,) whether the first head classified each row correctly; n is at least 1.
      second: bool (n,) the same for the second head.
      seed: of the resamples.
      resamples: number to draw.
      level: share of the resamples within the interval.

    Returns:
      The interval of first minus second.

    Raises:
      ValueError: when the numbers of rows differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired heads need the same rows, got {len(first)} and {len(second)}")
    rows = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    shares = np.array([only_first, only_second, rows - only_first - only_second]) / rows
    drawn = np.random.default_rng(seed).multinomial(rows, shares, resamples)
    values = (drawn[:, 0] - drawn[:, 1]) / rows
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    estimate = (only_first - only_second) / rows
    return Interval(estimate, float(lower), float(upper), rows, level, len(values))


def sign_test(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the p-value of the disagreements between two heads if both are equally good.

    This is McNemar's exact test: two-sided, binomial on the rows that only one head classifies
    correctly. Unlike a bootstrap, it can judge disagreements that all favour the same head.

    Args:
      first: bool (n,) whether the first head classified each row correctly.
      second: bool (n,) the same for the second head.

    Example:
      >>> right = np.arange(100) < 90
      >>> sign_test(right, right & (np.arange(100) >= 4))
      0.125
    """
    from scipy.special import bdtr

    ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
    return min(1.0, 2 * float(bdtr(min(ahead, behind), ahead + behind, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """Returns p values of several tests, adjusted (Holm, "A simple sequentially rejective multiple
    test procedure", 1979).

    Example:
      >>> holm([0.01, 0.5, 0.02])
      [0.03, 0.5, 0.04]
    """
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.minimum(np.maximum.accumulate(np.array(values)[order] * factors), 1)
    result = np.empty(len(values))
    result[order] = adjusted
    return result.tolist()
