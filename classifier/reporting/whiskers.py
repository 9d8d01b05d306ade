"""Intervals as whiskers on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Interval = Mapping[str, float]


@dataclass(frozen=True)
class Whisker:
    """An interval on an axis that it shares with others.

    Attributes:
      name: of what has the interval.
      text: the figures.
      note: a remark.
      places: of the estimate, the lower and the upper end, in percent of the axis.
      zero: place of 0 on an axis of differences, else None.
    """

    name: str
    text: str
    note: str
    places: tuple[float, ...]
    zero: float | None = None


def accuracies(found: Sequence[tuple[str, Interval, str]]) -> list[Whisker]:
    """Lays out accuracies.

    Args:
      found: (name, interval's record, remark) of each.
    """
    if not found:
        return []
    low = min(interval["lower"] for _, interval, _ in found)
    high = max(interval["upper"] for _, interval, _ in found)
    room = max(0.1 * (high - low), 0.005)
    ends = max(0.0, low - room), min(1.0, high + room)
    return [
        Whisker(name, f"{one['estimate']:.1%}  ({interval_text(one)})", note, _places(one, ends))
        for name, one, note in found
    ]


def differences(found: Sequence[tuple[str, Interval, str]]) -> list[Whisker]:
    """Lays out differences of accuracies around zero; arguments as for `accuracies`."""
    reach = max((abs(one[end]) for _, one, _ in found for end in ("lower", "upper")), default=0.0)
    ends = -1.1 * max(reach, 0.001), 1.1 * max(reach, 0.001)
    return [
        Whisker(name, _points(one), note, _places(one, ends), 50.0) for name, one, note in found
    ]


def interval_text(interval: Interval) -> str:
    """Formats the interval of an accuracy, in percent."""
    return f"{100 * interval['lower']:.1f} – {100 * interval['upper']:.1f}%"


def _points(d: Interval) -> str:
    figures = (f"{100 * d[name]:+.1f}" for name in ("estimate", "lower", "upper"))
    # The minus sign is as wide as a plus.
    return "{} points ({} to {})".format(*figures).replace("-", "−")


def _places(interval: Interval, ends: tuple[float, float]) -> tuple[float, ...]:
    low, high = ends
    values = (interval[name] for name in ("estimate", "lower", "upper"))
    return tuple(round(100 * (value - low) / (high - low), 2) for value in values)
