"""What a run's accuracy is without the rows that leaked into its training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.auditing.leaks import Pair
from classifier.auditing.rows import AuditRows
from classifier.features.division import names_of_split
from classifier.features.selection import is_below
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.intervals import accuracy_interval
from classifier.judgement.judge import BATCH_SIZE
from classifier.runs.run import Run
from featurestore.labels.numbers import class_numbers

if TYPE_CHECKING:
    from featurestore import FeatureStore


def sides_of(rows: AuditRows, run: Run | None) -> np.ndarray:
    """Returns object (n,): the split of each row, "" for none; a run's carve makes two of one."""
    sides = np.array([split or "" for split in rows.split], object)
    named = {side for side in sides if side}
    if run is None or not run.config.carve or names_of_split("validation", named):
        return sides
    trained = set(names_of_split("train", named)) if named else {""}
    for row in np.flatnonzero([side in trained for side in sides]):
        below = is_below(rows.content_hash[row], run.config.carve)
        sides[row] = "validation" if below else "train"
    return sides


def leaked_rows(pairs: Iterable[Pair], sides: np.ndarray) -> np.ndarray:
    """Returns bool (n,): the rows that have a copy in another split, be it a copy of a copy.

    Rows without a split do not leak.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = np.array([pair.rows for pair in pairs], np.int64).reshape(-1, 2)
    shape = (len(sides), len(sides))
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows[:, 0], rows[:, 1])), shape=shape)
    _, groups = connected_components(graph, directed=False)
    _, numbers = np.unique(sides.astype(str), return_inverse=True)
    named = sides.astype(str) != ""
    found = np.unique(np.stack([groups[named], numbers[named]]), axis=1)
    splits = np.bincount(found[0], minlength=len(sides))
    return named & (splits[groups] > 1)


def judge_rows(
    run: Run, head_id: str, store: FeatureStore, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns bool (count,) twice: which rows have one class of the run, and which it gets right.

    Args:
      run: with one label per row.
      head_id: of the head.
      store: of the same features, at the moment at which its rows were read.
      count: of its rows.
    """
    logits_of = run.logits_of(head_id)
    right, known = np.zeros(count, bool), np.zeros(count, bool)
    start = 0
    for batch in store.scan(("labels", "features"), views=[0], batch_size=BATCH_SIZE):
        own = slice(start, start + len(batch["labels"]))
        start = own.stop
        named = [run.meant_by(labels) for labels in batch["labels"]]
        single = [labels[0] if len(labels) == 1 else None for labels in named]
        numbers = class_numbers(single, run.classes)
        guesses = log_probabilities(logits_of(batch["features"])).argmax(axis=1)
        known[own], right[own] = numbers >= 0, guesses == numbers
    return known, right


def restate(
    known: np.ndarray, right: np.ndarray, sides: np.ndarray, leaked: np.ndarray
) -> list[dict[str, Any]]:
    """Returns accuracies with and without leaked rows, a record for each split but the training's.

    Args:
      known: from `judge_rows`.
      right: from `judge_rows`.
      sides: from `sides_of`.
      leaked: from `leaked_rows`.
    """
    records = []
    trained = set(names_of_split("train", set(sides)))
    for side in sorted(set(sides) - trained - {""}):
        of = known & (sides == side)
        clean = of & ~leaked
        if of.any():
            records.append(
                {
                    "split": side,
                    "leaked": int((of & leaked).sum()),
                    "all": accuracy_interval(int(right[of].sum()), int(of.sum())).to_record(),
                    "without": accuracy_interval(
                        int(right[clean].sum()), int(clean.sum())
                    ).to_record()
                    if clean.any()
                    else None,
                }
            )
    return records
