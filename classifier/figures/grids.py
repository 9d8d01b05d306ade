"""Draws a labelled grid of images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifier.figures import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid_figure(
    tiles: Sequence[tuple[np.ndarray | None, str | None]], rows: int, columns: int
) -> Figure:
    """Draws a labelled grid of images.

    Args:
      tiles: (uint8 (H, W, 3), label), row by row. The image is None if it could not be read; a
        label of None leaves the place empty.
      rows: of the grid.
      columns: of the grid.
    """
    wide, high, title = 1.7, 2.0, 0.48  # Inches of a place, and of the label in it.
    figure = plots.new_figure(max(3.0, wide * columns), max(2.0, high * rows))
    # All tiles share one pair of axes, in inches: hundreds of them would take seconds.
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    margin = (figure.get_figwidth() - wide * columns) / 2
    for number, (pixels, label) in enumerate(tiles[: rows * columns]):
        if label is None:
            continue
        row, column = divmod(number, columns)
        x, y = margin + wide * (column + 0.5), high * row + title
        lines = textwrap.wrap(plots.clip(label, 38), 20) or [""]
        text = plots.literal("\n".join(lines))
        axes.text(x, y - 0.05, text, ha="center", va="bottom", fontsize=8.5, linespacing=1.1)
        shown = np.full((8, 8, 3), 214, np.uint8) if pixels is None else pixels
        height, width = shown.shape[:2]
        scale = min((wide - 0.14) / width, (high - title - 0.06) / height)
        edges = (x - width * scale / 2, x + width * scale / 2, y + height * scale, y)
        axes.imshow(shown, interpolation="nearest", extent=edges)
        if pixels is None:
            middle = y + height * scale / 2
            axes.text(
                x, middle, "gone", ha="center", va="center", fontsize=11, color="#555555",
                style="italic",
            )  # fmt: skip
    axes.set_aspect("auto")
    axes.set_xlim(0, figure.get_figwidth())
    axes.set_ylim(figure.get_figheight(), 0)
    return figure
