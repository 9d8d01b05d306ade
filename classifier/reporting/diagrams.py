"""The page's charts, one function each: history, penalties, reliability, learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from classifier.reporting.charts import (
    MOST_POINTS,
    Axis,
    Chart,
    decades,
    finite,
    horizontal,
    loss_axis,
    percent,
    pieces,
    placed,
    share_axis,
    short,
    ticks,
)

SIDE = 240  # of the reliability diagram, which is square
SQUARE: dict[str, Any] = {"left": 40, "right": SIDE - 12, "top": 12, "bottom": SIDE - 36}


def history_chart(name: str, train: Sequence, validation: Sequence, best_epoch: int) -> Chart:
    """Draws a metric by epoch.

    Args:
      name: ``loss`` or ``accuracy``.
      train: one value an epoch, None where there is none.
      validation: likewise.
      best_epoch: counted from 1; marked.
    """
    step = max(1, math.ceil(len(train) / MOST_POINTS))
    epochs = sorted({*range(1, len(train) + 1, step), best_epoch, len(train)})
    y, y_marks = (loss_axis if name == "loss" else share_axis)(finite(train, validation))
    x = horizontal(1, max(len(train), 2))
    write = short if name == "loss" else percent
    best = validation[best_epoch - 1]
    marks = []
    text = "none" if best is None else f"{best:.4f}" if name == "loss" else f"{best:.1%}"
    if best is not None:
        marks.append(("best", x.place(best_epoch), y.place(best), 4.0, text))
    if len(train) == 1:
        # A line through one point is invisible.
        marks += [("one", x.place(1), y.place(v), 3.0, "") for v in train if v is not None]
    # From 1, and then the round ones that leave it room.
    whole = [n for n in ticks(1, x.high) if n % 1 == 0 and n - 1 >= 0.15 * (x.high - 1)]
    return Chart(
        name.capitalize(),
        f"{name} of training and validation over {len(train)} epochs; validation {text} at its "
        f"best epoch, {best_epoch}",
        placed(x, [1.0, *whole], short),
        placed(y, y_marks, write),
        "epoch",
        [
            ("train", pieces(x, y, [(epoch, train[epoch - 1]) for epoch in epochs])),
            ("validation", pieces(x, y, [(epoch, validation[epoch - 1]) for epoch in epochs])),
        ],
        marks,
    )


def penalty_chart(pairs: Sequence[tuple[float, float]], chosen: float) -> Chart:
    """Draws an exact head's accuracy by penalty.

    Args:
      pairs: (penalty, accuracy), at least two, penalties positive.
      chosen: the penalty that was taken.
    """
    pairs = sorted(pairs)
    x_marks = decades(pairs[0][0], pairs[-1][0])
    x = horizontal(min(x_marks[0], pairs[0][0]), max(x_marks[-1], pairs[-1][0]), log=True)
    y, y_marks = share_axis(finite([value for _, value in pairs]))
    best = min(pairs, key=lambda pair: abs(math.log(pair[0] / chosen)))[1]
    return Chart(
        "Accuracy",
        f"accuracy over {len(pairs)} penalties from {pairs[0][0]:g} to {pairs[-1][0]:g}; chosen "
        f"{chosen:.3g} at {best:.1%}",
        placed(x, x_marks, short),
        placed(y, y_marks, percent),
        "penalty",
        [("validation", pieces(x, y, pairs))],
        [("best", x.place(chosen), y.place(best), 4.0, f"{best:.1%}")],
    )


def learning_chart(points: Sequence[dict[str, Any]]) -> Chart:
    """Draws accuracy with its interval over the number of training images.

    Args:
      points: ``images`` and ``accuracy`` (an interval's record), at least one.
    """
    points = sorted(points, key=lambda point: point["images"])
    images = [point["images"] for point in points]
    found = [point["accuracy"] for point in points]
    y, y_marks = share_axis(finite([a["lower"] for a in found], [a["upper"] for a in found]))
    x = horizontal(images[0] * 0.9, images[-1] * 1.1, log=True)
    places = [(x.place(count), count) for count in dict.fromkeys(images)]
    edge = [(x.place(n), y.place(a["upper"])) for n, a in zip(images, found, strict=True)]
    edge += [(x.place(n), y.place(a["lower"])) for n, a in zip(images, found, strict=True)][::-1]
    values = [(n, a["estimate"]) for n, a in zip(images, found, strict=True)]
    return Chart(
        "Accuracy",
        "accuracy by training images: " + ", ".join(f"{v:.1%} with {n:,}" for n, v in values),
        [(place, f"{count:,}") for place, count in places],
        placed(y, y_marks, percent),
        "training images",
        [("validation", pieces(x, y, values))],
        [("dot", x.place(n), y.place(v), 3.5, f"{n:,} images: {v:.1%}") for n, v in values],
        edge,
    )


def reliability_chart(name: str, found: Mapping[str, Any]) -> Chart:
    """Draws accuracy over confidence, with the share of rows that each bin holds.

    Args:
      name: of the diagram.
      found: a reliability's record.
    """
    x = Axis(0, 1, SQUARE["left"], SQUARE["right"])
    y = Axis(0, 1, SQUARE["bottom"], SQUARE["top"])
    filled = [part for part in found["bins"] if part["rows"]]
    rows = sum(part["rows"] for part in filled)
    values = [(part["confidence"], part["accuracy"]) for part in filled]
    marks = [
        (
            "dot",
            x.place(part["confidence"]),
            y.place(part["accuracy"]),
            round(2.5 + 6.5 * math.sqrt(part["rows"] / rows), 2),
            f"{part['rows']:,} rows: confidence {part['confidence']:.1%}, accuracy "
            f"{part['accuracy']:.1%}",
        )
        for part in filled
    ]
    quarters = [0, 0.25, 0.5, 0.75, 1]
    return Chart(
        name,
        f"{name}: calibration error {found['ece']:.3f}; mean accuracy by confidence: "
        + ", ".join(f"{accuracy:.0%} at {confidence:.0%}" for confidence, accuracy in values),
        placed(x, quarters, percent),
        placed(y, quarters, percent),
        "confidence",
        [
            ("ideal", pieces(x, y, [(0, 0), (1, 1)])),
            ("gap", [piece for c, a in values for piece in pieces(x, y, [(c, c), (c, a)])]),
        ],
        marks,
        width=SIDE,
        height=SIDE,
        **SQUARE,
    )
