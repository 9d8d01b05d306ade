"""Audits a store: all findings, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifier.auditing.doubts import Doubts, find_doubts
from classifier.auditing.drift import drift
from classifier.auditing.findings import Findings
from classifier.auditing.leaks import CopyOptions, find_copies
from classifier.auditing.outliers import find_outliers
from classifier.auditing.places import PCA, places_of
from classifier.auditing.restated import judge_rows, leaked_rows, restate, sides_of
from classifier.auditing.rows import AuditRows
from classifier.runs.run import Run

if TYPE_CHECKING:
    from featurestore import FeatureStore


def audit(
    store: FeatureStore,
    rows: AuditRows,
    options: CopyOptions,
    trained: tuple[Run | None, str] = (None, ""),
    other: FeatureStore | None = None,
    map_way: str = PCA,
) -> Findings:
    """Returns everything that is found.

    Args:
      store: at the moment at which its rows were read.
      rows: of the store.
      options: how copies are sought.
      trained: a run of the same features and one of its heads, whose accuracy is restated.
      other: store of the same features, to compare with.
      map_way: one of `places.WAYS`.
    """
    run, head_id = trained
    copies = find_copies(store, rows, options, store.storage.options)
    doubts = find_doubts(rows)
    outliers = find_outliers(rows, doubts.own, len(doubts.classes))
    sides = sides_of(rows, run)
    notes = _notes(doubts)
    restated: list[dict[str, Any]] = []
    judged = None
    if run and run.multi_label:
        notes.append("the accuracy of multi-label heads is not restated")
    elif run:
        judged = judge_rows(run, head_id, store, len(rows))
        restated = restate(*judged, sides, leaked_rows(copies.pairs, sides))
        if not restated:
            notes.append("the store has no rows beside the training's to restate an accuracy on")
    return Findings(
        store=store.url,
        rows=rows,
        sides=sides,
        copies=copies,
        doubts=doubts,
        outliers=outliers,
        places=places_of(rows, map_way),
        restated=restated,
        drift=drift(rows, other) if other else None,
        judged=judged,
        run=run.url if run else "",
        notes=notes,
    )


def _notes(doubts: Doubts) -> list[str]:
    """Returns what is to say of labels that were not checked."""
    unchecked = int((doubts.own < 0).sum())
    if doubts.note:
        return [doubts.note]
    return [f"{unchecked:,} rows without exactly one label had no label checked"] * bool(unchecked)
