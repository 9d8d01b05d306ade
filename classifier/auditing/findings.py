"""All findings of an audit, as rows of tables and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from classifier.auditing.doubts import Doubts
from classifier.auditing.leaks import EXACT, Copies
from classifier.auditing.outliers import Outliers
from classifier.auditing.places import Places
from classifier.auditing.rows import AuditRows

LEAK_COLUMNS = (
    *("kind", "across_splits", "labels_differ", "cosine", "margin", "likeness", "mirrored"),
    *("key", "split", "label", "other_key", "other_split", "other_label"),
)
# `featurestore relabel` takes the first two.
LABEL_COLUMNS = ("key", "label", "given_label", "margin", "in_split")
OUTLIER_COLUMNS = (
    *("key", "label", "split", "ratio", "to_class", "to_training", "nearest_cosine"),
)
# Rows of each table in audit.json.
FIRST = 20
Record = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """What an audit found.

    Attributes:
      store: address of the store.
      rows: its unaugmented rows.
      sides: object (n,) their splits, as a run divides them.
      copies, doubts, outliers: of the rows.
      restated: accuracies of a run, see `restated.restate`.
      drift: see `drift.drift`; None without another store.
      places: where the rows lie on the map.
      judged: bool (n,) twice, whether the run's answer to a row is known to be right or wrong, and
        whether it is right; None without a run, or with a multi-label run.
      run: address of the run, or "".
      notes: one line each on what was not done.
    """

    store: str
    rows: AuditRows
    sides: np.ndarray
    copies: Copies
    doubts: Doubts
    outliers: Outliers
    places: Places
    restated: Sequence[Record] = ()
    drift: Record | None = None
    judged: tuple[np.ndarray, np.ndarray] | None = None
    run: str = ""
    notes: list[str] = field(default_factory=list)

    def leaks(self) -> list[Record]:
        """Returns the pairs of copies, those across splits first."""
        records = [self._pair(number) for number in range(len(self.copies.pairs))]
        return sorted(records, key=lambda record: not record["across_splits"])

    def _pair(self, number: int) -> Record:
        pair = self.copies.pairs[number]
        one, other = pair.rows
        rows, sides = self.rows, self.sides
        values = (
            pair.kind,
            bool(sides[one] and sides[other] and sides[one] != sides[other]),
            set(rows.labels[one]) != set(rows.labels[other]),
            pair.cosine,
            pair.margin,
            pair.likeness,
            pair.mirrored,
            *(rows.key[one], sides[one], rows.label(one)),
            *(rows.key[other], sides[other], rows.label(other)),
        )
        return {**dict(zip(LEAK_COLUMNS, values, strict=True)), "rows": pair.rows}

    def labels(self) -> list[Record]:
        """Returns the doubtful labels, the most doubtful first."""
        doubts, rows = self.doubts, self.rows
        return [
            {
                "key": rows.key[row],
                "label": doubts.classes[doubts.suggested[row]],
                "given_label": doubts.classes[doubts.own[row]],
                "margin": float(doubts.margin[row]),
                "in_split": self.sides[row],
                "rows": (row,),
            }
            for row in doubts.ranked.tolist()
        ]

    def outlying(self) -> list[Record]:
        """Returns the outliers, the farthest first."""
        found, rows = self.outliers, self.rows
        return [
            {
                "key": rows.key[row],
                "label": rows.label(row),
                "split": self.sides[row],
                "ratio": float(found.ratio[row]),
                "to_class": float(found.to_class[row]),
                "to_training": float(found.to_training[row]),
                "nearest_cosine": float(self.copies.nearest[row]),
                "rows": (row,),
            }
            for row in found.ranked.tolist()
        ]

    def to_record(self) -> Record:
        """Returns the content of ``audit.json``."""
        leaks, labels, outliers = self.leaks(), self.labels(), self.outlying()
        across = [record for record in leaks if record["across_splits"]]
        copies = self.copies
        return {
            "store": self.store,
            **({"run": self.run} if self.run else {}),
            "rows": len(self.rows),
            "leaks": {
                "rule": copies.rule,
                "pairs": len(leaks),
                "exact": sum(record["kind"] == EXACT for record in leaks),
                "across_splits": len(across),
                "exact_across_splits": sum(record["kind"] == EXACT for record in across),
                "labels_differ": sum(record["labels_differ"] for record in leaks),
                "candidates": copies.candidates,
                "images_not_read": copies.unread,
                "left_out": copies.left_out,
                "recall": asdict(copies.recall) if copies.recall else None,
                "first": [plain(record) for record in leaks[:FIRST]],
            },
            "labels": {
                "checked": int(np.count_nonzero(self.doubts.own >= 0)),
                "doubtful": len(labels),
                "l2": self.doubts.l2,
                "first": [plain(record) for record in labels[:FIRST]],
            },
            "outliers": {
                "found": len(outliers),
                "fence": self.outliers.fence,
                "first": [plain(record) for record in outliers[:FIRST]],
            },
            "restated": list(self.restated),
            "map": {"way": self.places.way, "share_of_variance": self.places.share},
            "drift": self.drift,
            "notes": self.notes,
        }


def plain(record: Mapping[str, Any]) -> Record:
    """Returns a record without its row numbers."""
    return {name: value for name, value in record.items() if name != "rows"}


def csv_text(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table as CSV; numbers have six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(record[name]) for name in columns] for record in records)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else value
