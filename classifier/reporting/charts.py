"""Geometry of the page's charts: values to places in a drawing. The template only draws.

A chart is a plain record that a template can walk through: ticks with their labels, lines as
lists of points, all in the units of the SVG's view box, with (0, 0) at the top left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30
# A curve of a thousand epochs needs no more points than the screen has.
MOST_POINTS = 400
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One side of a chart: values to places.

    Attributes:
      low: value at its beginning.
      high: value at its end, above `low`.
      start: place of the beginning.
      end: place of the end.
      log: whether decades are equally long.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Returns the place of a value, rounded to what can be seen."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low / 10))
        share = (value - low) / (high - low)
        return round(self.start + min(max(share, -0.02), 1.02) * (self.end - self.start), 2)


@dataclass(frozen=True)
class Chart:
    """What a template draws.

    Attributes:
      title: shown above.
      summary: says in words what it shows, for those who do not see it.
      x_ticks: (place, label).
      y_ticks: likewise.
      x_name: of the x axis.
      lines: (kind, pieces of points); a piece ends where a value is missing.
      marks: (kind, x, y, radius, words).
      band: points around an area, or none.
    """

    title: str
    summary: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_name: str = ""
    lines: list[tuple[str, list[list[Point]]]] = field(default_factory=list)
    marks: list[tuple[str, float, float, float, str]] = field(default_factory=list)
    band: list[Point] = field(default_factory=list)

    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round values within a range.

    Example:
      >>> ticks(0, 0.93)
      [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    step = (high - low) / most
    power = 10.0 ** math.floor(math.log10(step))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def decades(low: float, high: float, most: int = 5) -> list[float]:
    """Returns powers of ten within a range, every second or third one where there are many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    step = max(1, math.ceil((last - first) / most))
    return [10.0**power for power in range(first, last + 1, step)]


def short(value: float) -> str:
    """Writes a tick's value.

    Example:
      >>> short(0.5), short(1e-05), short(20.0), short(5e4)
      ('0.5', '1e-5', '20', '50k')
    """
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"


def percent(value: float) -> str:
    """Writes a share.

    Example:
      >>> percent(0.5), percent(0.975)
      ('50%', '97.5%')
    """
    return f"{round(100 * value, 4):g}%"


def pieces(x: Axis, y: Axis, values: Sequence[tuple[float, float | None]]) -> list[list[Point]]:
    """Returns the points of a line, broken where a value is missing or infinite."""
    found: list[list[Point]] = [[]]
    for at, value in values:
        if value is None or not math.isfinite(value):
            found.append([])
            continue
        found[-1].append((x.place(at), y.place(value)))
    return [piece for piece in found if piece]


def finite(*curves: Sequence[float | None]) -> np.ndarray:
    """Returns float64 (n,): the values that are numbers."""
    values = np.array([value for curve in curves for value in curve if value is not None], float)
    return values[np.isfinite(values)]


def horizontal(low: float, high: float, log: bool = False) -> Axis:
    """Returns an axis along the bottom."""
    return Axis(low, high, LEFT, WIDTH - RIGHT, log)


def vertical(low: float, high: float, log: bool = False) -> Axis:
    """Returns an axis along the left side."""
    return Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def placed(
    axis: Axis, values: Sequence[float], write: Callable[[float], str]
) -> list[tuple[float, str]]:
    """Returns ticks: (place, label)."""
    return [(axis.place(value), write(value)) for value in values]


def loss_axis(values: np.ndarray) -> tuple[Axis, list[float]]:
    """Returns an axis from 0, or a logarithmic one where one wild epoch would flatten the rest."""
    positive = values[values > 0]
    if len(positive) and values.max() > 10 * np.quantile(values, 0.9) > 0:
        marks = decades(float(positive.min()), float(values.max()))
        return vertical(marks[0], max(float(values.max()), marks[-1]), log=True), marks
    high = 1.08 * float(values.max()) if len(positive) else 1.0
    return vertical(0, high), ticks(0, high, 4)


def share_axis(values: np.ndarray) -> tuple[Axis, list[float]]:
    """Returns an axis of shares that shows differences near 1."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = max(0.08 * (high - low), 0.01)
    low, high = max(0.0, low - room), min(1.0, high + room)
    return vertical(low, high), ticks(low, high, 4)
