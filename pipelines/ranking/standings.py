"""What each base of a tournament reached and cost, and whether the differences are chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from classifier.judgement.intervals import difference_interval, sign_test
from classifier.judgement.judge import judge
from classifier.runs.run import load_run
from featurestore import FeatureStore, open_store
from featurestore.errors import UsageError
from featurestore.units import size_text
from pipelines.execution import best_split
from pipelines.ranking.entrants import Entrant

ROUND_NUMBER = 1_000_000
LEVEL = 0.05


class Judged(NamedTuple):
    """A base that finished.

    Attributes:
      facts: its figures, fit for JSON.
      right: content number of each judged image -> whether its best head classified it rightly.
    """

    facts: dict[str, Any]
    right: dict[int, bool]


def judged(entrant: Entrant) -> Judged:
    """Judges the best head of a base on the images that it was not trained on."""
    store, run = open_store(entrant.store), load_run(entrant.run)
    if run.multi_label:
        raise UsageError(
            f"{entrant.typed}: its images have several labels each, and a tournament compares the "
            "accuracy of one; use a --label_columns that gives one label"
        )
    head_id = run.head_id()
    split = best_split(entrant.store, entrant.run)
    found = judge(run, head_id, store, split)
    facts = {
        "base": entrant.typed,
        "store": entrant.store,
        "run": entrant.run,
        "head": head_id,
        "split": split,
        "images": found.record["rows"],
        "accuracy": found.record["interval"],
        "feature_shape": list(store.spec.feature_shape),
        **costs(store),
    }
    outcomes = found.outcomes
    return Judged(facts, dict(zip(outcomes.content.tolist(), outcomes.right.tolist(), strict=True)))


def costs(store: FeatureStore) -> dict[str, float]:
    """Returns what a million images would cost, from the largest extraction into a store.

    Returns:
      ``images_per_second`` without start-up, ``hours_per_million`` with it, ``bytes_per_million``.
    """
    names = [f"runs/{file.name}" for file in store.storage.list("runs")]
    records = [json.loads(store.storage.read(n)) for n in names if n.endswith(".json")]
    largest = max(records, key=lambda record: record["ledger"]["rows"])
    rows, took = largest["ledger"]["rows"], largest["time"]
    start = took["to_first_image"] or 0.0
    rate = rows / max(took["seconds"] - start, 1e-9)
    stored = sum(marker.part_bytes for marker in store.markers().values())
    return {
        "images_per_second": rate,
        "hours_per_million": (start + ROUND_NUMBER / rate) / 3600,
        "bytes_per_million": stored / store.ledger().rows * ROUND_NUMBER,
    }


def standings(entries: Sequence[Judged]) -> list[dict[str, Any]]:
    """Ranks bases by accuracy, and compares each with the first in pairs over the same images.

    Returns:
      The facts of each base, best first. All but the first have ``compared`` (images that both
      judged), ``difference`` to the first as an interval's record, and ``p_value`` of the sign
      test, by Holm's correction for so many comparisons ("A Simple Sequentially Rejective Multiple
      Test Procedure", 1979). ``ties`` says that the difference is not beyond chance.
    """
    # Of equal ones the cheapest first.
    ranked = sorted(
        entries,
        key=lambda one: (-one.facts["accuracy"]["estimate"], one.facts["hours_per_million"]),
    )
    first, rest = ranked[0], ranked[1:]
    rows = [dict(first.facts, ties=True), *(_compared(first, one) for one in rest)]
    correct = sorted(rows[1:], key=lambda row: row["p_value"])
    largest = 0.0
    for index, row in enumerate(correct):
        largest = min(1.0, max(largest, row["p_value"] * (len(correct) - index)))
        row |= {"p_value": largest, "ties": largest >= LEVEL}
    return rows


def _compared(first: Judged, other: Judged) -> dict[str, Any]:
    both = sorted(first.right.keys() & other.right.keys())
    if not both:
        raise UsageError(f"{other.facts['base']} judged none of the images that the others judged")
    ours, theirs = (np.array([one.right[number] for number in both]) for one in (first, other))
    return {
        **other.facts,
        "compared": len(both),
        "difference": difference_interval(ours, theirs).to_record(),
        "p_value": sign_test(ours, theirs),
    }


def advised(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the cheapest base among those that the best one does not beat beyond chance."""
    return min((row for row in rows if row["ties"]), key=lambda row: row["hours_per_million"])


def standing_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the table of a tournament and its verdict, for a terminal."""
    width = max(len("base"), *(len(row["base"]) for row in rows))
    lines = [
        f"{'base':{width}}  {'accuracy (95%)':24}  {'behind the first':30}  {'images/s':>9}  "
        f"{'hours/million':>13}  {'bytes/million':>13}"
    ]
    for row in rows:
        behind = ""
        if "difference" in row:
            gap, p_value = row["difference"], row["p_value"]
            behind = f"{percent(gap)}, p {p_value:.2g}"
        lines.append(
            f"{row['base']:{width}}  {percent(row['accuracy']):24}  {behind:30}  "
            f"{row['images_per_second']:>9,.1f}  {row['hours_per_million']:>13,.2f}  "
            f"{size_text(row['bytes_per_million']):>13}"
        )
    return [*lines, verdict(rows)]


def percent(interval: Mapping[str, float]) -> str:
    """Formats an interval of shares.

    Example:
      >>> percent({"estimate": 0.5, "lower": 0.25, "upper": 0.75})
      '50.0% (25.0 to 75.0)'
    """
    low, high = 100 * interval["lower"], 100 * interval["upper"]
    return f"{interval['estimate']:.1%} ({low:.1f} to {high:.1f})"


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the sentence that a tournament ends with."""
    best, cheap = rows[0], advised(rows)
    if cheap is best:
        return f"take {best['base']}: the most accurate, and no base that is as good costs less"
    times = best["hours_per_million"] / cheap["hours_per_million"]
    return (
        f"take {cheap['base']}: on these images {best['base']} is not better beyond chance, and "
        f"takes {times:.1f} times as long"
    )
