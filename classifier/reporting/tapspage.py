"""The page over all taps of a training, beside the page that each tap has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from classifier.judgement.ranking import cheapest
from classifier.reporting.diagrams import Chart
from classifier.reporting.frame import Tell, page_or_note
from classifier.reporting.material import read_record
from classifier.reporting.standings import (
    Priced,
    StandingsPage,
    cost_chart,
    headline,
    interval_cell,
    place_cell,
    render,
)
from classifier.reporting.tables import Table, cell, count, p_cell, shape_cell, share
from classifier.reporting.whiskers import Whisker, differences
from classifier.runs.run import REPORT, SUMMARY
from featurestore.io.storage import Storage
from featurestore.units import size_text

# The fact of a tap that says what it costs.
COST = "bytes_per_row"
_COLUMNS = (
    ("Tap", False),
    ("Head", False),
    ("Validation (95%)", True),
    ("p", True),
    ("Test (95%)", True),
    ("p on test", True),
    ("Dimensions", True),
    ("Bytes per row", True),
)


def renew_taps_page(storage: Storage, tell: Tell) -> bool:
    """Writes ``report.html`` of a training over several taps, or says in one line why not.

    A training whose rows have several labels has no standings, and so no page.

    Args:
      storage: the folder of the training, finished.
      tell: takes lines for the user.

    Returns:
      Whether the page was written.
    """
    summary = read_record(storage, SUMMARY) or {}
    if not summary.get("standings"):
        return False
    return page_or_note(partial(_write, storage, summary), REPORT, tell)


def _write(storage: Storage, summary: Mapping[str, Any]) -> str:
    url = storage.public_url
    storage.write(REPORT, render(_page(summary["standings"], url, summary["tap"])))
    return f"{url}/{REPORT}"


def _page(rows: Sequence[Mapping[str, Any]], url: str, default: str) -> StandingsPage:
    first, accuracy = rows[0], rows[0]["accuracy"]
    facts = [("Taps", count(len(rows))), ("Bytes per row", size_text(first[COST]))]
    if test := first["test"]:
        facts.append((f"On {test['rows']:,} test images", share(test["estimate"])))
    where = f"{first['head_id']} on {first['tap']}, {accuracy['rows']:,} validation images"
    return StandingsPage(
        kind="taps report",
        title=url.rstrip("/").rpartition("/")[2] or url,
        url=url,
        headline=headline(accuracy, where, facts),
        verdict=_verdict(rows),
        order="By validation accuracy, best first; a name leads to the page of its tap.",
        charts=_charts(rows),
        table=_table(rows),
        made="Made from the runs of the taps.",
        notes=[_default_note(rows, default)],
        differences=_differences(rows),
    )


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    return [
        cost_chart(
            f"{split} accuracy by bytes per row",
            "Bytes per row, before compression",
            [Priced(row["tap"], row[name], row[COST], f"{row[COST]:,} bytes") for row in rows],
        )
        for split, name in (("Validation", "accuracy"), ("Test", "test"))
        if rows[0][name]
    ]


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the sentence that a reader wants first."""
    best, cheap = rows[0], cheapest(rows, COST)
    if cheap is best:
        return (
            f"no tap is more accurate on the validation images than {best['tap']}, and no tap as "
            "good has smaller rows"
        )
    times = best[COST] / cheap[COST]
    return (
        f"the rows of {cheap['tap']} are {times:,.1f} times smaller than those of {best['tap']}, "
        "which is not better beyond chance on the validation images"
    )


def _default_note(rows: Sequence[Mapping[str, Any]], default: str) -> str:
    why = "whose validation loss is the lowest"
    if default == rows[0]["tap"]:
        why = "whose validation loss is the lowest too"
    return f"A command that is given this run uses {default}, {why}."


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = [
        [
            place_cell(place, row["tap"], f"{row['folder']}/{REPORT}"),
            cell(row["head_id"], str),
            interval_cell(row["accuracy"]),
            p_cell(row.get("p_value")),
            interval_cell(row["test"]),
            p_cell(row.get("test_p_value")),
            shape_cell(row["feature_shape"]),
            cell(row[COST], size_text),
        ]
        for place, row in enumerate(rows, 1)
    ]
    note = (
        "p is that of the sign test against the first tap, on the same images, with Holm's "
        "correction for the number of taps. The validation images also chose the heads; the test "
        "images chose nothing."
    )
    return Table(list(_COLUMNS), lines, note)


def _differences(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Whisker]]:
    first, *rest = rows
    return {
        f"{first['tap']} minus another tap, on the {split} images": differences(
            [(row["tap"], row[name], f"p {p_cell(row[p_name]).text}") for row in rest]
        )
        for split, name, p_name in (
            ("validation", "difference", "p_value"),
            ("test", "test_difference", "test_p_value"),
        )
        if name in rest[0]
    }
