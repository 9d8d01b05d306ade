"""Confidence intervals of an accuracy, exact, and of the difference between two heads, paired.

Differences have percentile intervals by Efron, "Better bootstrap confidence intervals" (1987),
section 1. Rows are never drawn one by one: among n rows drawn with replacement, the numbers of rows
that only one head has right are multinomial, so 2,000 resamples cost the same whatever n is.
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
    """A figure and the range in which it would lie on other rows of the same kind.

    Attributes:
      estimate: on the rows themselves.
      lower: end of the interval.
      upper: likewise.
      rows: it was estimated on.
      level: how often such a range holds the true figure.
      resamples: how many were drawn; 0 for an exact interval.
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


def accuracy_interval(hits: int, rows: int, level: float = LEVEL) -> Interval:
    """Estimates how far an accuracy would move on other rows of the same kind.

    The interval is Clopper and Pearson's, "The use of confidence or fiducial limits illustrated in
    the case of the binomial" (1934): exact for any number of rows and mistakes.

    Args:
      hits: rows that were classified rightly.
      rows: all of them, at least 1.
      level: how often such an interval holds the true accuracy, at least.

    Example:
      >>> found = accuracy_interval(90, 100)
      >>> found.estimate, round(found.lower, 2), round(found.upper, 2)
      (0.9, 0.82, 0.95)
      >>> found = accuracy_interval(100, 100)
      >>> found.estimate, round(found.lower, 2), found.upper
      (1.0, 0.96, 1.0)
    """
    from scipy.stats import binomtest

    found = binomtest(hits, rows).proportion_ci(level, method="exact")
    return Interval(hits / rows, float(found.low), float(found.high), rows, level, 0)


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
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    estimate = (only_first - only_second) / rows
    return Interval(estimate, float(lower), float(upper), rows, level, len(values))


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
