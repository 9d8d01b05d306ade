"""Contenders on the same images: ranked by accuracy, and each compared with the first in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from classifier.judgement.intervals import LEVEL, difference_interval, holm, sign_test
from classifier.judgement.judge import JudgedHead
from featurestore.errors import UsageError


class Contender(NamedTuple):
    """A head on the features of one base or layer.

    Attributes:
      name: for messages.
      facts: its figures, fit for JSON; ``accuracy`` is an interval's record.
      content: uint32 (n,) number of each judged image.
      right: bool (n,) whether the head classified it rightly.
    """

    name: str
    facts: dict[str, Any]
    content: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, name: str, judged: JudgedHead, **facts: Any) -> Contender:
        """Makes one of a head that was judged on rows with one label each."""
        facts["accuracy"] = judged.record["interval"]
        return cls(name, facts, judged.outcomes.content, judged.outcomes.right)


def ranked(contenders: Sequence[Contender], cost: str) -> list[dict[str, Any]]:
    """Ranks contenders by accuracy; of equal ones the cheapest comes first.

    Args:
      contenders: at least one.
      cost: name of the fact that says what one costs.

    Returns:
      The facts of each, best first. All but the first have those of `compared` too. ``ties`` says
      that the first is not better beyond chance.
    """
    order = sorted(contenders, key=lambda c: (-c.facts["accuracy"]["estimate"], c.facts[cost]))
    first, *rest = order
    rows = [dict(first.facts, ties=True)]
    for one, found in zip(rest, compared(first, rest), strict=True):
        rows.append({**one.facts, **found, "ties": found["p_value"] >= 1 - LEVEL})
    return rows


def compared(first: Contender, others: Sequence[Contender]) -> list[dict[str, Any]]:
    """Compares each of the others with the first one, over the images that both judged.

    Returns:
      ``compared``, the number of images; ``difference``, the first one's accuracy minus that of the
      other, as an interval's record; and ``p_value`` of the sign test, by Holm's correction for so
      many comparisons.

    Raises:
      UsageError: when two judged none of the same images.
    """
    pairs = [_paired(first, other) for other in others]
    corrected = holm([sign_test(*pair) for pair in pairs])
    return [
        {
            "compared": len(pair[0]),
            "difference": difference_interval(*pair).to_record(),
            "p_value": p_value,
        }
        for pair, p_value in zip(pairs, corrected, strict=True)
    ]


def _paired(first: Contender, other: Contender) -> tuple[np.ndarray, np.ndarray]:
    """Returns bool (n,) of the first and of the other, for the images that both judged."""
    if np.array_equal(first.content, other.content):
        return first.right, other.right
    both, ours, theirs = np.intersect1d(first.content, other.content, return_indices=True)
    if not len(both):
        raise UsageError(f"{other.name} judged none of the images that {first.name} judged")
    return first.right[ours], other.right[theirs]


def cheapest(rows: Sequence[Mapping[str, Any]], cost: str) -> Mapping[str, Any]:
    """Returns the cheapest of those that the best one does not beat beyond chance.

    Args:
      rows: of `ranked`.
      cost: as for `ranked`.
    """
    return min((row for row in rows if row["ties"]), key=lambda row: row[cost])


def percent(interval: Mapping[str, float]) -> str:
    """Formats an interval of shares.

    Example:
      >>> percent({"estimate": 0.5, "lower": 0.25, "upper": 0.75})
      '50.0% (25.0 to 75.0)'
    """
    low, high = 100 * interval["lower"], 100 * interval["upper"]
    return f"{interval['estimate']:.1%} ({low:.1f} to {high:.1f})"
