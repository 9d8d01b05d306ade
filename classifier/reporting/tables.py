"""The page's tables: their columns, the text of their cells and their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.figures.plots import clip
from classifier.judgement.classes import weakest_first
from classifier.judgement.confusions import most_confused

MATRIX_CLASSES = 20
MOST_ROWS = 1000
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      text: shown to the reader.
      order: sort key within its column; "" comes last.
      bar: a share from 0 to 1 drawn behind the text, or None.
      link: where the name of a row leads, relative to the page, or "".
    """

    text: str
    order: str
    bar: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A sortable table.

    Attributes:
      columns: (heading, whether the column holds numbers).
      rows: one cell per column; the first cell names the row.
      note: a line below the table, or "".
    """

    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]
    note: str = ""

    @property
    def name_width(self) -> int:
        """Width of the first column in characters."""
        return min(19, 3 + max((len(row[0].text) for row in self.rows), default=0))


def count(value: float) -> str:
    """Formats a whole number."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """Formats a share in percent."""
    return f"{value:.1%}"


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _word(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def cell(value: Any, write: Callable[[Any], str], bar: float | None = None) -> Cell:
    """Returns a cell, with a dash for a missing value."""
    if value is None or value != value:
        return Cell(MISSING, "")
    return Cell(write(value), str(value), bar)


def p_cell(value: float | None) -> Cell:
    """Returns a cell of a p value."""
    return cell(value, lambda p: f"{p:.2g}" if p >= 0.0001 else "< 0.0001")


def shape_cell(shape: Sequence[int]) -> Cell:
    """Returns a cell of a feature's shape, in the order of its sizes."""
    return Cell(" × ".join(f"{length:,}" for length in shape), str(math.prod(shape)))


# Field of the leaderboard, heading, format (None for words), and whether the column is shown even
# if all heads have the same value.
_BOARD: tuple[tuple[str, str, Callable[[Any], str] | None, bool], ...] = (
    ("head_id", "Head", None, True),
    ("val_accuracy", "Validation accuracy", share, True),
    ("val_loss", "Validation loss", _fixed(4), True),
    ("accuracy", "Training accuracy", share, True),
    ("loss", "Training loss", _fixed(4), True),
    ("optimizer", "Optimizer", None, False),
    ("lr", "Learning rate", _number, True),
    ("l2", "L2", _number, True),
    ("dropout", "Dropout", _number, False),
    ("label_smoothing", "Smoothing", _number, False),
    ("seed", "Seed", count, False),
    ("best_epoch", "Best epoch", count, True),
    ("parameters", "Parameters", count, True),
    ("seconds", "Seconds", _fixed(1), True),
    ("kept", "Saved", None, False),
)


def leaderboard_table(board: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the leaderboard, best first."""

    def is_shown(name: str, always: bool) -> bool:
        values = {str(record.get(name)) for record in board}
        return values != {"None"} and (always or len(values) > 1)

    columns = [column for column in _BOARD if is_shown(column[0], column[3])]
    rows = [
        [cell(_value(record, name), write or _word) for name, _, write, _ in columns]
        for record in board[:MOST_ROWS]
    ]
    note = ""
    if len(board) > len(rows):
        note = f"The best {len(rows):,} of {len(board):,} heads; leaderboard.csv lists all."
    return Table([(heading, write is not None) for _, heading, write, _ in columns], rows, note)


def _value(record: Mapping[str, Any], name: str) -> Any:
    # An exact head is fitted without epochs.
    return None if name == "best_epoch" and record.get("lr") is None else record.get(name)


def learning_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the points of a learning curve: ``images``, and ``accuracy`` with its interval."""
    ends = ("estimate", "lower", "upper")
    rows = [
        [cell(point["images"], count), *(cell(point["accuracy"][end], share) for end in ends)]
        for point in points
    ]
    names = ("Training images", "Accuracy", "Lower end", "Upper end")
    return Table([(name, True) for name in names], rows)


def class_table(per_class: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the figures of classes, the weakest first and those without rows last."""
    ranked = weakest_first(per_class)
    rows = [
        [
            Cell(row["class"], row["class"]),
            cell(row["precision"], _fixed(3)),
            cell(row["recall"], _fixed(3)),
            cell(row["f1"], _fixed(3), row["f1"]),
            cell(row["support"], count),
        ]
        for row in ranked[:MOST_ROWS]
    ]
    notes = []
    if len(ranked) > len(rows):
        notes.append(
            f"The {len(rows):,} weakest of {len(ranked):,} classes; the JSON file lists all."
        )
    if empty := sum(not row["support"] for row in ranked):
        notes.append(f"{empty:,} have no rows in this split and come last.")
    names = ("Class", "Precision", "Recall", "F1", "Rows")
    return Table([(name, name != "Class") for name in names], rows, " ".join(notes))


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, or a readable part of it.

    Attributes:
      names: (short, full) of each class shown.
      rows: one list per true class: (rows, depth of colour in percent, whether right, words).
      others: per row, predictions of classes that are not shown; empty if all are shown.
      note: which part is shown, or "".
    """

    names: list[tuple[str, str]]
    rows: list[list[tuple[int, int, bool, str]]]
    others: list[int]
    note: str

    @property
    def is_long(self) -> bool:
        """Whether names are too long for horizontal headings."""
        return max(len(short) for short, _ in self.names) > 4


def _depth(share_of_class: float, right: bool) -> int:
    """Returns the depth of a cell's colour in percent; its number stays readable."""
    # The square root keeps one confusion in a hundred visible.
    root = float(share_of_class) ** 0.5
    return round(45 * root) if right or not root else round(10 + 50 * root)


def matrix_of(confusion: np.ndarray, classes: Sequence[str]) -> Matrix:
    """Lays out a confusion matrix, coloured by the share of each true class.

    Args:
      confusion: int (k, k), rows are true classes and columns predicted ones.
      classes: k names.
    """
    chosen = most_confused(confusion, MATRIX_CLASSES)
    support = np.maximum(confusion.sum(axis=1), 1)
    rows = [
        [
            (
                int(confusion[true, guess]),
                _depth(confusion[true, guess] / support[true], bool(true == guess)),
                bool(true == guess),
                f"{classes[true]} predicted as {classes[guess]}: {confusion[true, guess]} of "
                f"{support[true]}",
            )
            for guess in chosen
        ]
        for true in chosen
    ]
    others, note = [], ""
    if len(chosen) < len(classes):
        others = (confusion[chosen].sum(axis=1) - confusion[np.ix_(chosen, chosen)].sum(1)).tolist()
        note = (
            f"The {len(chosen)} of {len(classes):,} classes that are confused most often. The JSON "
            "file has the whole matrix."
        )
    names = [(clip(classes[index], 18), classes[index]) for index in chosen]
    return Matrix(names, rows, others, note)
