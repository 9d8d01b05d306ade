"""Prepares the page's sections from the files of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.reporting import whiskers
from classifier.reporting.diagrams import (
    Chart,
    history_chart,
    learning_chart,
    penalty_chart,
    reliability_chart,
)
from classifier.reporting.material import Material
from classifier.reporting.tables import (
    Matrix,
    Table,
    class_table,
    count,
    learning_table,
    matrix_of,
    share,
)
from classifier.reporting.whiskers import Whisker, interval_text

Fact = tuple[str, str]


@dataclass(frozen=True)
class Evaluation:
    """The best head on one split.

    Attributes:
      split: its name.
      facts: (name, value) pairs.
      matrix: the confusion matrix, None where rows may have several labels.
      classes: figures per class.
      charts: reliability before and after scaling.
      calibration: sentences about them.
      confused: most confused pairs.
      mistakes: records of the worst.
      learning: chart of accuracy by training images, or None.
      points: the same as a table.
      notes: one line each.
    """

    split: str
    facts: list[Fact]
    matrix: Matrix | None
    classes: Table
    charts: list[Chart]
    calibration: str
    confused: list[dict[str, Any]]
    mistakes: list[dict[str, Any]]
    learning: Chart | None
    points: Table
    notes: list[str]


def curves(material: Material) -> list[tuple[str, list[Chart]]]:
    """Returns (head_id, charts) of the best heads: by epoch, or by penalty for an exact head."""
    found = []
    for record in material.board:
        history = material.histories.get(record["head_id"])
        charts = _head_charts(history, record) if history else []
        if charts:
            found.append((record["head_id"], charts))
    return found


def _head_charts(history: Mapping[str, Any], record: Mapping[str, Any]) -> list[Chart]:
    penalties = history.get("penalties") or {}
    values = penalties.get("val_accuracy") or penalties.get("cv_accuracy")
    pairs = [(l2, v) for l2, v in zip(penalties.get("l2", ()), values or (), strict=False) if l2]
    if len(pairs) > 1 and record.get("l2"):
        return [penalty_chart(pairs, record["l2"])]
    if len(history.get("loss", ())) < 2:
        return []
    return [
        history_chart(name, history[name], history[f"val_{name}"], history["best_epoch"])
        for name in ("loss", "accuracy")
    ]


def evaluations(material: Material) -> list[Evaluation]:
    """Returns the sections on the best head, test first."""
    return [
        _evaluation(found, material.learning.get((found["split"], found["head_id"])))
        for found in material.judged
    ]


def _evaluation(found: Mapping[str, Any], learning: Sequence | None) -> Evaluation:
    calibration = found.get("calibration") or {}
    diagrams = [("As trained", calibration.get("before")), ("Scaled", calibration.get("after"))]
    points = [point for point in learning or () if "accuracy" in point]
    notes = [
        f"With {point['fraction']:.0%} of the images ({point['images']:,}), the head could not be "
        f"judged: {point['reason']}."
        for point in learning or ()
        if "reason" in point
    ]
    confusion = found.get("confusion")
    if not confusion:
        notes.append("Rows may have several labels: figures that need one per row are left out.")
    if found.get("unlabelled"):
        notes.append(f"{found['unlabelled']:,} rows without a label are left out.")
    if unknown := found.get("unknown_labels"):
        what = f"{sum(unknown.values()):,} {'rows' if confusion else 'labels'} of classes"
        notes.append(f"{what} that the head was not trained on are left out.")
    return Evaluation(
        found["split"],
        evaluation_facts(found),
        matrix_of(np.array(confusion), found["classes"]) if confusion else None,
        class_table(found.get("per_class", ())),
        [reliability_chart(name, values) for name, values in diagrams if values],
        _calibration_sentence(calibration),
        found.get("confused", []),
        found.get("mistakes", []),
        learning_chart(points) if points else None,
        learning_table(points),
        notes,
    )


def evaluation_facts(found: Mapping[str, Any]) -> list[Fact]:
    """Returns the figures at the top of an evaluation's section."""
    facts = [("Accuracy", share(found["accuracy"]))] if "accuracy" in found else []
    if interval := found.get("interval"):
        facts.append((f"{interval['level']:.0%} interval", interval_text(interval)))
    if "top_5_accuracy" in found:
        facts.append(("Top-5", share(found["top_5_accuracy"])))
    if found.get("loss") is not None:
        facts.append(("Loss", f"{found['loss']:.4f}"))
    f1 = [row["f1"] for row in found.get("per_class", ()) if row["f1"] is not None]
    if f1:
        mean = found.get("macro_f1", sum(f1) / len(f1))
        facts.append(("Mean F1", f"{mean:.3f}"))
    if found.get("mean_average_precision") is not None:
        facts.append(("Mean AP", f"{found['mean_average_precision']:.3f}"))
    calibration = found.get("calibration") or {}
    if calibration.get("before"):
        after = calibration.get("after")
        text = f"{calibration['before']['ece']:.3f}" + (f" → {after['ece']:.3f}" if after else "")
        facts.append(("Calibration error", text))
    return [*facts, ("Rows", count(found["rows"]))]


def _calibration_sentence(calibration: Mapping[str, Any]) -> str:
    fitted = calibration.get("temperature")
    if not calibration:
        return ""
    if not fitted or not calibration.get("after"):
        return "There were no validation rows to fit a temperature on."
    temperature = fitted["temperature"]
    found = "overconfident" if temperature > 1.05 else "well calibrated"
    found = "underconfident" if temperature < 0.95 else found
    return (
        f"Points below the diagonal are overconfident. The head is {found}: temperature "
        f"{temperature:.2f}, fitted on {fitted['rows']:,} validation rows, changes the expected "
        f"calibration error from {calibration['before']['ece']:.3f} to "
        f"{calibration['after']['ece']:.3f}. The order of the classes stays the same."
    )


def accuracy_whiskers(material: Material) -> list[Whisker]:
    """Returns the accuracy and interval of every evaluation."""
    return whiskers.accuracies(
        [
            (f"{item['head_id']} on {item['split']}", item["interval"], f"{item['rows']:,} rows")
            for item in material.evaluations
            if item.get("interval")
        ]
    )


def difference_whiskers(material: Material) -> list[Whisker]:
    """Returns the differences between heads on the same rows."""
    found = [(item, item["comparison"]) for item in material.evaluations if item.get("comparison")]
    return whiskers.differences(
        [
            (
                f"{item['head_id']} − {other['head_id']} on {item['split']}",
                other["difference"],
                "beyond chance" if other["beyond_chance"] else "no clear difference",
            )
            for item, other in found
        ]
    )
