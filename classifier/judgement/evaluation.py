"""Evaluates a head on some rows in one pass: loss, accuracy, figures per class, confusion matrix.

Rows are streamed, and only a k x k matrix and a few sums are kept, so memory is bounded for a split
of any size. The loss is computed from logits in float64.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.division import names_of_split, single_labels
from classifier.features.sample import content_numbers
from classifier.features.selection import Selection
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.classes import class_figures
from classifier.judgement.multilabel import MultiLabelScores
from classifier.judgement.outcomes import ROW_COLUMNS, Outcomes
from classifier.runs.run import Run
from featurestore.errors import UsageError, unknown_choice
from featurestore.labels.numbers import class_numbers, several_labels

if TYPE_CHECKING:
    from featurestore import FeatureStore

EVERYTHING = "all"
TOP = 5


@dataclass
class Scores:
    """Sums over evaluated rows.

    Attributes:
      classes: names, in the head's order.
      confusion: int64 (k, k), rows are true classes and columns predicted ones.
      loss_sum: of cross entropies, in nats.
      top_hits: rows whose class is among the five most probable ones.
      unknown: label that the head was not trained on -> its rows.
      unlabelled: rows without a label.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray = field(init=False)
    loss_sum: float = 0.0
    top_hits: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.classes),) * 2, np.int64)

    @property
    def rows(self) -> int:
        """Number of evaluated rows."""
        return int(self.confusion.sum())

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Adds rows.

        Args:
          logits: float (n, 1) for two classes, else (n, k).
          labels: int (n,) class indices.
        """
        logs = log_probabilities(logits)
        own = logs[np.arange(len(labels)), labels]
        self.loss_sum -= float(own.sum())
        np.add.at(self.confusion, (labels, logs.argmax(axis=1)), 1)
        # Ties and NaN count as misses.
        places = (logs >= own[:, None]).sum(axis=1)
        self.top_hits += int(((places >= 1) & (places <= TOP)).sum())

    def to_record(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        hits, support = np.diag(self.confusion), self.confusion.sum(axis=1)
        record: dict[str, Any] = {
            "rows": self.rows,
            "loss": self.loss_sum / self.rows,
            "accuracy": float(hits.sum() / self.rows),
        }
        if len(self.classes) > TOP:
            record["top_5_accuracy"] = self.top_hits / self.rows
        predicted = self.confusion.sum(axis=0)
        record["per_class"] = class_figures(self.classes, hits, predicted, support)
        record["unknown_labels"] = dict(sorted(self.unknown.items()))
        record["unlabelled"] = self.unlabelled
        record["confusion"] = self.confusion.tolist()
        return record


def select_split(run: Run, store: FeatureStore, split: str) -> Selection:
    """Returns the rows that `--split` names, divided as they were for training.

    Args:
      run: has the boundary of its validation carve.
      store: to evaluate on.
      split: any name of a split of the store; ``all``; or train and validation of a run that carved
        its validation rows out.

    Raises:
      UsageError: listing the splits of the store.
    """
    found = store.split_counts()
    if not found:
        raise UsageError(f"the store at {store.url} has no rows to evaluate")
    if split == EVERYTHING:
        return Selection()
    named = [name for name in found if name is not None]
    trained = names_of_split("train", named)
    carved = run.config.carve and not names_of_split("validation", named)
    if carved and (trained or not named):
        for side in ("train", "validation"):
            if names_of_split(split, [side]):
                return Selection(trained or (None,), run.config.carve, side)
    names = names_of_split(split, named)
    if not names:
        choices = {*named, EVERYTHING, *(("train", "validation") if carved else ())}
        raise unknown_choice(f"--split: in {store.url}", split, sorted(choices))
    return Selection(names)


def evaluate(
    run: Run,
    head_id: str,
    store: FeatureStore,
    selection: Selection,
    batch_size: int = 1024,
    outcomes: Outcomes | None = None,
) -> Scores | MultiLabelScores:
    """Runs a head over the selected rows, each image once and unaugmented.

    Args:
      run: that trained the head.
      head_id: of the head.
      store: of the same features.
      selection: the rows.
      batch_size: rows per batch.
      outcomes: receives the outcome of each row; for heads with one label per row.

    Raises:
      SpecMismatch: when the head was trained on other features than the store's.
      UsageError: when no row has a label that the head knows.
    """
    require_same_features(run, store)
    logits_of = run.logits_of(head_id)
    scores = MultiLabelScores(run.classes) if run.multi_label else Scores(run.classes)
    learned, columns = set(run.classes), ("labels", "features", *(ROW_COLUMNS if outcomes else ()))
    for batch in selection.batches(store, columns, batch_size):
        named = [run.meant_by(names) for names in batch["labels"]]
        if run.multi_label:
            labels = several_labels(named, run.classes)
            known = labels.max(axis=1) > 0
        else:
            labels = class_numbers(single_labels(named), run.classes)
            known = labels >= 0
        scores.unlabelled += sum(not names for names in named)
        scores.unknown.update(n for names in named for n in names if n not in learned)
        if known.any():
            rows = {name: column[known] for name, column in batch.items()}
            logits = logits_of(rows["features"])
            if isinstance(scores, MultiLabelScores):
                scores.update(logits, labels[known], content_numbers(rows["content_hash"]))
            else:
                scores.update(logits, labels[known])
            if outcomes:
                outcomes.update(logits, labels[known], rows)
    _require_rows(scores, store)
    return scores


def _require_rows(scores: Scores | MultiLabelScores, store: FeatureStore) -> None:
    if not scores.rows:
        raise UsageError(
            f"no row to evaluate on: {scores.unlabelled} rows of {store.url} have no label and "
            f"{scores.unknown.total()} have one that the head was not trained on"
        )


def require_same_features(run: Run, store: FeatureStore) -> None:
    """Refuses a store whose features differ from those the run was trained on.

    Raises:
      SpecMismatch: naming the fields that differ.
    """
    fix = "evaluate on the store it was trained on, or one with the same settings"
    run.spec.require_same(store.spec, f"the run at {run.url}", fix)
