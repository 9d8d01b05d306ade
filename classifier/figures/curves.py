"""Draws the charts of a run into Matplotlib axes, for PNG files and for the page.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which colour-blind readers can
distinguish; curves also differ in line style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE, ORANGE, GREY, RULE = "#0072b2", "#d55e00", "#6b6b6b", "#e5e5e5"
# A screen shows no more points of a long curve.
MOST_POINTS = 400
# A group id with this prefix holds a text that the page shows as a tooltip.
WORDS = "words:"
RING = {"mfc": "none", "mec": ORANGE, "mew": 2, "ms": 8}


def draw_history(
    axes: Axes, metric: str, train: Sequence, validation: Sequence, best_epoch: int
) -> None:
    """Draws a metric by epoch for training and validation.

    Args:
      axes: to draw into.
      metric: ``loss`` or ``accuracy``.
      train: one value per epoch; None or NaN where there is none.
      validation: the same for validation.
      best_epoch: counted from 1; marked.
    """
    from matplotlib.ticker import MaxNLocator

    curves = [np.array(values, float) for values in (train, validation)]
    epochs = np.arange(1, len(curves[0]) + 1)
    step = max(1, math.ceil(len(epochs) / MOST_POINTS))
    shown = np.unique([*range(0, len(epochs), step), best_epoch - 1, len(epochs) - 1])
    # A line through one point is invisible.
    marker = "o" if len(epochs) <= 3 else None
    for values, color, style, name in zip(
        curves, (GREY, BLUE), ("--", "-"), ("training", "validation"), strict=True
    ):
        values = np.where(np.isfinite(values), values, np.nan)
        axes.plot(
            epochs[shown], values[shown], style, color=color, lw=1.8, marker=marker, label=name
        )
    best = curves[1][best_epoch - 1]
    axes.axvline(best_epoch, color=GREY, lw=1, ls=":", zorder=0)
    if np.isfinite(best):
        label = f"best epoch {best_epoch}: {best:.3f}"
        ring: dict[str, Any] = RING | {"zorder": 5, "clip_on": False, "gid": WORDS + label}
        axes.plot([best_epoch], [best], "o", ls="none", label=label, **ring)
    axes.set_xlabel("Epoch")
    axes.set_xlim(0.5, len(epochs) + 0.5)
    if len(epochs) > 3:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    else:
        axes.set_xticks(epochs)
    both = np.concatenate(curves)
    (loss_scale if metric == "loss" else share_scale)(axes, both[np.isfinite(both)])
    plain(axes)


def draw_penalties(axes: Axes, pairs: Sequence[tuple[float, float]], chosen: float) -> None:
    """Draws an exact head's accuracy by penalty.

    Args:
      axes: to draw into.
      pairs: (penalty, accuracy), ascending; penalties are positive.
      chosen: the penalty that the head uses.
    """
    penalties, values = (np.array(column) for column in zip(*pairs, strict=True))
    best = values[np.abs(np.log(penalties / chosen)).argmin()]
    axes.plot(penalties, values, color=BLUE, lw=1.8)
    ring: dict[str, Any] = RING | {"gid": f"{WORDS}{best:.1%}"}
    axes.plot([chosen], [best], "o", **ring)
    axes.set_xscale("log")
    decades(axes.xaxis)
    axes.set_xlabel("Penalty")
    share_scale(axes, values)
    plain(axes)


def draw_learning(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Draws accuracy with its interval by number of training images.

    Args:
      axes: to draw into.
      points: ``images`` and ``accuracy`` (an interval's record), ascending, at least one.
    """
    images = np.array([point["images"] for point in points])
    lower, middle, upper = (
        np.array([point["accuracy"][name] for point in points])
        for name in ("lower", "estimate", "upper")
    )
    axes.fill_between(images, lower, upper, color=BLUE, alpha=0.15, lw=0)
    axes.plot(images, middle, color=BLUE, lw=1.8)
    for count, value in zip(images, middle, strict=True):
        words = f"{WORDS}{count:,} images: {value:.1%}"
        axes.plot([count], [value], "o", color=BLUE, ms=6, gid=words)
    axes.set_xscale("log")
    axes.set_xlim(images[0] * 0.9, images[-1] * 1.1)
    axes.set_xticks(sorted(set(images)), [f"{count:,}" for count in sorted(set(images))])
    axes.minorticks_off()
    axes.set_xlabel("Training images")
    share_scale(axes, np.concatenate([lower, upper]))
    plain(axes)


def draw_reliability(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    """Draws accuracy by confidence; a larger point stands for more rows.

    Args:
      axes: square, to draw into.
      bins: ``rows``, ``confidence`` and ``accuracy`` of each.
    """
    filled = [part for part in bins if part["rows"]]
    total = sum(part["rows"] for part in filled)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    for part in filled:
        x, y, rows = part["confidence"], part["accuracy"], part["rows"]
        words = f"{rows:,} rows: confidence {x:.1%}, accuracy {y:.1%}"
        axes.plot([x, x], [x, y], color=BLUE, lw=1)
        size = 5 + 13 * math.sqrt(rows / total)
        axes.plot([x], [y], "o", color=BLUE, ms=size, clip_on=False, gid=WORDS + words)
    quarters = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(quarters, [f"{value:.0%}" for value in quarters])
    axes.set_yticks(quarters, [f"{value:.0%}" for value in quarters])
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Confidence", aspect="equal")
    plain(axes)
    axes.tick_params(pad=6)  # keeps the labels of the origin apart


def loss_scale(axes: Axes, values: np.ndarray) -> None:
    """Starts the y axis at 0; makes it logarithmic if an outlier would flatten the other values.

    Args:
      axes: of the curve.
      values: finite float64 (n,), every value that is drawn.
    """
    if len(values) and values.max() > 10 * np.quantile(values, 0.9) > 0:
        axes.set_yscale("log")
        decades(axes.yaxis)
    else:
        axes.set_ylim(0, 1.08 * values.max() if len(values) and values.max() > 0 else 1)


def decades(axis: Axis, within: Sequence[float] = (1.0,)) -> None:
    """Marks a logarithmic axis with few plain numbers.

    Args:
      axis: to mark.
      within: factors of each power of ten that are marked; (1, 2, 5) suit an axis of a few decades.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=within, numticks=6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def share_scale(axes: Axes, values: np.ndarray) -> None:
    """Fits the y axis to shares so that differences near 1 are visible.

    Args:
      axes: of the curve.
      values: finite float64 (n,), every value that is drawn.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    room = max(0.08 * (high - low), 0.01)
    axes.set_ylim(max(0.0, low - room), min(1.0, high + room) + 0.1 * room)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def plain(axes: Axes) -> None:
    """Removes the parts of the frame that do not help the reader."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.grid(axis="y", color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelcolor=GREY)
    axes.xaxis.label.set_color(GREY)
