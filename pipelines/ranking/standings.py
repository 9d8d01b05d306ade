"""What each base of a tournament reached and cost, and whether the differences are chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from classifier.judgement.judge import judge
from classifier.judgement.ranking import Contender, cheapest, percent
from classifier.runs.run import load_run
from featurestore import FeatureStore, open_store
from featurestore.errors import UsageError
from featurestore.units import size_text
from pipelines.execution import best_split
from pipelines.ranking.entrants import Entrant

ROUND_NUMBER = 1_000_000
COST = "hours_per_million"


def judged(entrant: Entrant) -> Contender:
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
        "feature_shape": list(store.spec.feature_shape),
        **costs(store),
    }
    return Contender.of(entrant.typed, found, **facts)


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


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the sentence that a tournament ends with."""
    best, cheap = rows[0], cheapest(rows, COST)
    if cheap is best:
        return f"take {best['base']}: the most accurate, and no base that is as good costs less"
    times = best[COST] / cheap[COST]
    return (
        f"take {cheap['base']}: on these images {best['base']} is not better beyond chance, and "
        f"takes {times:.1f} times as long"
    )
