"""Bootstrap confidence intervals of an accuracy and of the difference between two heads.

Percentile intervals by Efron, "Better bootstrap confidence intervals" (1987), section 1. Rows are
never drawn one by one: among n rows drawn with replacement, the numbers of right and wrong ones are
multinomial, so 2,000 resamples cost 2,000 random numbers, whatever n is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with the range that resampling its rows gives.

    Attributes:
      estimate: on the rows themselves.
      lower: end of the interval.
      upper: likewise.
      rows: it was estimated on.
      level: share of the resamples within.
      resamples: that were drawn; 0 for an exact interval.
    """

    estimate: float
    lower: float
    upper: float
    rows: int
    level: float = LEVEL
    resamples: int = RESAMPLES

    def to_record(self) -> dict[str, Any]:
        """Returns the fields, fit for JSON."""
        return dataclasses.asdict(self)


def accuracy_interval(
    hits: int, rows: int, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Estimates how far an accuracy would move on other rows of the same kind.

    Without any mistake, or without any hit, every resample says the same: then the interval is
    Clopper and Pearson's exact one (1934), as wide as so few rows leave it.

    Args:
      hits: rows that were classified rightly.
      rows: all of them, at least 1.
      seed: of the resamples.
      resamples: to draw.
      level: share of them within the interval.

    Example:
      >>> found = accuracy_interval(90, 100)
      >>> found.estimate, round(found.lower, 2), round(found.upper, 2)
      (0.9, 0.84, 0.96)
      >>> found = accuracy_interval(100, 100)
      >>> found.estimate, round(found.lower, 2), found.upper, found.resamples
      (1.0, 0.96, 1.0, 0)
    """
    if hits in (0, rows):
        # The share at which so many rows in a row are as likely as half of what lies outside.
        least = ((1 - level) / 2) ** (1 / rows)
        lower, upper = (least, 1.0) if hits else (0.0, 1 - least)
        return Interval(hits / rows, lower, upper, rows, level, 0)
    rng = np.random.default_rng(seed)
    values = rng.binomial(rows, hits / rows, resamples) / rows
    return _percentiles(hits / rows, values, rows, level)


def difference_interval(
    first: np.ndarray,
    second: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Estimates the difference of two heads' accuracies on the same rows, drawn in pairs.

    Args:
      first: bool (n,) which rows the first head classified rightly; n is at least 1.
      second: the same of the second head, row by row.
      seed: of the resamples.
      resamples: to draw.
      level: share of them within the interval.

    Returns:
      The interval of first minus second.

    Raises:
      ValueError: when the rows are not the same number.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired heads need the same rows, got {len(first)} and {len(second)}")
    rows = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    shares = np.array([only_first, only_second, rows - only_first - only_second]) / rows
    drawn = np.random.default_rng(seed).multinomial(rows, shares, resamples)
    values = (drawn[:, 0] - drawn[:, 1]) / rows
    return _percentiles((only_first - only_second) / rows, values, rows, level)


def sign_test(first: np.ndarray, second: np.ndarray) -> float:
    """Returns how probable so uneven disagreements are of heads that are equally good.

    McNemar's test in its exact form: two-sided, binomial on the rows that one head alone has right.
    A bootstrap interval cannot tell where all disagreements go one way: no resample goes the other.

    Args:
      first: bool (n,) which rows the first head classified rightly.
      second: the same of the second head, row by row.

    Example:
      >>> right = np.arange(100) < 90
      >>> sign_test(right, right & (np.arange(100) >= 4))
      0.125
    """
    from scipy.stats import binomtest

    ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0


def _percentiles(estimate: float, values: np.ndarray, rows: int, level: float) -> Interval:
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(lower), float(upper), rows, level, len(values))
