"""Draws training history, confusion matrix and predictions, and writes figures as PNG files.

Figures are drawn without pyplot, which would need a display and keep global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.figures.curves import BLUE, draw_history
from classifier.runtime import is_ours
from featurestore.cli.absent import absent
from featurestore.errors import UsageError
from featurestore.io.lookup import is_folder
from featurestore.io.storage import Storage, connect, public_url

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
# More classes than these make a confusion matrix too small to read.
READABLE_CLASSES = 40
# Of the bar and the name of a true class; dark enough for text on white.
GREEN = "#2a7a3b"
Ranked = Sequence[tuple[str, float]]


class PlotsMissing(UsageError):
    """Matplotlib is not installed."""


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure.

    Args:
      width: in inches.
      height: in inches.

    Raises:
      PlotsMissing: naming what to install.
    """
    try:
        # Matplotlib imports its plots in three dimensions too, if it finds them.
        with absent("mpl_toolkits") if is_ours() else nullcontext():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsMissing(
            "plots need matplotlib, which is not installed: pip install 'hoarfrost[report]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    # Without Matplotlib's version in the file, equal figures give equal files.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write_or_skip(
    storage: Storage, name: str, draw: Callable[[], Figure], tell: Callable[[str], None]
) -> bool:
    """Writes a figure, or reports in one line that Matplotlib is missing.

    Returns:
      Whether the figure was written.
    """
    try:
        data = png(draw())
    except PlotsMissing as error:
        tell(f"note: {name} was skipped: {error}")
        return False
    storage.write(name, data)
    return True


def write_file(target: str, data: bytes, storage_options: Mapping[str, str], flag: str) -> None:
    """Writes one file, to a local path or URL.

    Raises:
      UsageError: when it cannot be written.
    """
    fs, path = connect(target, storage_options, flag)
    name = path.rstrip("/").rpartition("/")[2]
    # The file system divides the path: memory://x.png has a slash but no folder.
    folder = target.removesuffix(name)
    shown = public_url(target)
    if not name or folder == target or target.endswith("/"):
        raise UsageError(f"{flag}: {shown!r} does not name a file; add a name such as grid.png")
    try:
        if is_folder(fs, path):
            raise UsageError(f"{flag}: {shown!r} is a folder; add a name such as grid.png")
        Storage(folder or ".", storage_options).write(name, data)
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag}: cannot write {shown!r}: {error}") from error


def literal(text: str) -> str:
    r"""Escapes what Matplotlib would read as mathematics, and what is not UTF-8 in a file name.

    Example:
      >>> literal("$5 bill")
      '\\$5 bill'
    """
    shown = text.encode("utf-8", errors="backslashreplace").decode()
    return shown.replace("$", r"\$")


def clip(text: str, width: int) -> str:
    """Shortens a label in its middle, where similar names differ least.

    Example:
      >>> clip("golden_retriever_puppy", 11)
      'golde…puppy'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + "…" + text[-tail:]


def history_figure(history: Mapping[str, Sequence[float]], best_epoch: int, title: str) -> Figure:
    """Draws loss and accuracy by epoch, for training and validation.

    Args:
      history: loss, accuracy, val_loss and val_accuracy; one value per epoch.
      best_epoch: counted from 1; marked in both panels.
      title: of the figure.
    """
    figure = new_figure(9.6, 4.1)
    panels = figure.subplots(1, 2)
    for axes, metric in zip(panels, ("loss", "accuracy"), strict=True):
        draw_history(axes, metric, history[metric], history[f"val_{metric}"], best_epoch)
        axes.set_title(metric.capitalize(), loc="left", fontsize=11)
        # Below the panel, where no curve can pass.
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3}
        axes.legend(frameon=False, fontsize=9, columnspacing=1.2, **place)
    _title(figure, title)
    return figure


def _title(figure: Figure, title: str) -> None:
    text = literal(clip(title, int(figure.get_figwidth() * 9)))
    figure.suptitle(text, x=0.01, ha="left", fontsize=11.5, fontweight="bold")


def confusion_figure(
    confusion: np.ndarray, classes: Sequence[str], title: str, shown: Sequence[int] | None = None
) -> Figure:
    """Draws a confusion matrix, coloured by the share of each true class.

    Args:
      confusion: int (k, k), rows are true classes and columns predicted ones.
      classes: k names.
      title: of the figure.
      shown: indices of the classes to draw, for a matrix that is too large to read; None for all.
    """
    support = confusion.sum(axis=1, keepdims=True)
    share = np.divide(confusion, support, out=np.zeros(confusion.shape), where=support > 0)
    if shown is not None and len(shown) < len(classes):
        title += f", the {len(shown)} of {len(classes):,} classes that are confused most often"
        classes = [classes[index] for index in shown]
        confusion, share = (matrix[np.ix_(shown, shown)] for matrix in (confusion, share))
    count = len(classes)
    side = float(np.clip(2.6 + 0.42 * count, 4.2, 12.5))
    figure = new_figure(max(side + 1.0, 6.4), side)
    from matplotlib.colors import PowerNorm

    axes = figure.subplots()
    # The square root of the share keeps one confusion in a hundred visible.
    image = axes.imshow(
        share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest"
    )
    ticks = range(count)
    names = [literal(clip(name, 24)) for name in classes]
    size = 9.5 if count <= 12 else 8
    upright = count <= 4 and max(map(len, names)) <= 10
    axes.set_xticks(ticks, names, fontsize=size, rotation=0 if upright else 90)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    axes.tick_params(length=2)
    _annotate(axes, confusion, share)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, aspect=30)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1%", "5%", "20%", "50%", "100%"])
    bar.set_label("Share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    _title(figure, title)
    return figure


def _annotate(axes: Any, confusion: np.ndarray, share: np.ndarray) -> None:
    count = len(confusion)
    size = 9.5 if count <= 12 else 8 if count <= 20 else 6.5
    for row, column in np.argwhere(confusion > 0):
        axes.text(
            column,
            row,
            f"{confusion[row, column]}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if share[row, column] > 0.3 else "#1a1a1a",
        )


def prediction_figure(
    predictions: Sequence[tuple[np.ndarray, str, Ranked, Sequence[str]]],
) -> Figure:
    """Draws each image beside bars of its most probable classes; the true ones are green.

    Args:
      predictions: (uint8 (H, W, 3), name, [(label, probability), ...] best first, true labels) per
        image; without true labels the best bar is blue.
    """
    count = len(predictions)
    most = max(len(top) for _, _, top, _ in predictions)
    height = max(2.2, 0.34 * most + 0.9)
    figure = new_figure(8.4, height * count)
    places = figure.subplots(count, 2, squeeze=False, width_ratios=[1, 1.7])
    for (picture, bars), (pixels, name, top, true) in zip(places, predictions, strict=True):
        picture.imshow(pixels, interpolation="nearest")
        picture.set_axis_off()
        picture.set_title(literal(clip(name, 34)), fontsize=9, loc="left")
        _probability_bars(bars, top, most, true)
        if true:
            title = clip(f"true class: {', '.join(true)}", 48)
            bars.set_title(literal(title), fontsize=9, loc="left", color=GREEN)
    return figure


def _probability_bars(bars: Any, top: Ranked, most: int, true: Sequence[str]) -> None:
    places = np.arange(len(top))
    values = np.array([probability for _, probability in top])
    colours = [BLUE] + ["#9cc4dd"] * (len(top) - 1)
    colours = [
        GREEN if label in true else colour for (label, _), colour in zip(top, colours, strict=True)
    ]
    bars.barh(places, values, color=colours, height=0.68)
    bars.set_yticks(places, [literal(clip(label, 26)) for label, _ in top], fontsize=9)
    # The bars of all images have the same thickness, with the best one on top.
    bars.set_ylim(most - 0.5, -0.6)
    bars.set_xlim(0, 1.14)
    bars.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"], fontsize=8)
    for place, value in zip(places, values, strict=True):
        bars.text(value + 0.01, place, f"{value:.1%}", va="center", fontsize=8.5)
    bars.spines[["top", "right", "left"]].set_visible(False)
    bars.tick_params(axis="y", length=0)
