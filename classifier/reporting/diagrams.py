"""The page's charts, one function each: history, penalties, reliability, learning curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier.figures import curves, plots
from classifier.figures.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pixels of the page.
SIZE, SQUARE = (340, 210), (240, 240)
POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
      title: shown above the chart.
      svg: an ``<svg>`` element.
    """

    title: str
    svg: str


def draw_chart(
    title: str, summary: str, draw: Callable[[Axes], None], size: tuple[int, int] = SIZE
) -> Chart:
    """Draws one chart of a page.

    Args:
      title: shown above the chart.
      summary: describes the chart to readers who cannot see it.
      draw: draws into the axes.
      size: width and height in pixels of the page.

    Raises:
      PlotsMissing: without Matplotlib.
    """
    width, height = size
    figure = plots.new_figure(width / POINTS_PER_INCH, height / POINTS_PER_INCH)
    draw(figure.subplots())
    return Chart(title, inline_svg(figure, summary))


def history_chart(name: str, train: Sequence, validation: Sequence, best_epoch: int) -> Chart:
    """Draws a metric by epoch.

    Args:
      name: ``loss`` or ``accuracy``.
      train: one value per epoch, None where there is none.
      validation: the same for validation.
      best_epoch: counted from 1; marked.
    """
    best = validation[best_epoch - 1]
    text = "none" if best is None else f"{best:.4f}" if name == "loss" else f"{best:.1%}"
    return draw_chart(
        name.capitalize(),
        f"{name} of training and validation over {len(train)} epochs; validation {text} at its "
        f"best epoch, {best_epoch}",
        lambda axes: curves.draw_history(axes, name, train, validation, best_epoch),
    )


def penalty_chart(pairs: Sequence[tuple[float, float]], chosen: float) -> Chart:
    """Draws an exact head's accuracy by penalty.

    Args:
      pairs: (penalty, accuracy), at least two; penalties are positive.
      chosen: the penalty that the head uses.
    """
    pairs = sorted(pairs)
    return draw_chart(
        "Accuracy",
        f"accuracy over {len(pairs)} penalties from {pairs[0][0]:g} to {pairs[-1][0]:g}; chosen "
        f"{chosen:.3g}",
        lambda axes: curves.draw_penalties(axes, pairs, chosen),
    )


def learning_chart(points: Sequence[Mapping[str, Any]]) -> Chart:
    """Draws accuracy with its interval by number of training images.

    Args:
      points: ``images`` and ``accuracy`` (an interval's record), at least one.
    """
    points = sorted(points, key=lambda point: point["images"])
    words = (f"{p['accuracy']['estimate']:.1%} with {p['images']:,}" for p in points)
    return draw_chart(
        "Accuracy",
        "accuracy by training images: " + ", ".join(words),
        lambda axes: curves.draw_learning(axes, points),
    )


def reliability_chart(name: str, found: Mapping[str, Any]) -> Chart:
    """Draws accuracy by confidence, with the share of rows in each bin.

    Args:
      name: of the diagram.
      found: record of a `Reliability`.
    """
    filled = [part for part in found["bins"] if part["rows"]]
    words = (f"{part['accuracy']:.0%} at {part['confidence']:.0%}" for part in filled)
    return draw_chart(
        name,
        f"{name}: calibration error {found['ece']:.3f}; mean accuracy by confidence: "
        + ", ".join(words),
        lambda axes: curves.draw_reliability(axes, filled),
        SQUARE,
    )
