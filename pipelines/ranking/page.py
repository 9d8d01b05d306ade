"""The page of a tournament: accuracy against cost, and the standings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from classifier.judgement.ranking import cheapest
from classifier.reporting.diagrams import Chart
from classifier.reporting.standings import (
    Priced,
    StandingsPage,
    cost_chart,
    headline,
    interval_cell,
    place_cell,
    render,
)
from classifier.reporting.tables import Table, cell, count, p_cell, shape_cell
from featurestore.units import size_text
from pipelines.ranking.standings import COST, verdict

_COLUMNS = (
    ("Base", False),
    ("Accuracy (95%)", True),
    ("Behind the first (95%)", True),
    ("p", True),
    ("Images/s", True),
    ("Hours per million", True),
    ("Bytes per million", True),
    ("Features", True),
    ("Head", False),
)


def page_of(rows: Sequence[Mapping[str, Any]], failed: Sequence[str]) -> str:
    """Returns the page.

    Args:
      rows: the standings, best first.
      failed: a line for each base that failed.

    Raises:
      ReportMissing: without Jinja2.
    """
    first = rows[0]
    return render(
        StandingsPage(
            kind="tournament",
            title=f"{len(rows)} bases on the same images",
            url=", ".join(row["base"] for row in rows),
            headline=headline(
                first["accuracy"],
                f"{first['head']} on {first['base']}, {first['images']:,} {first['split']} images",
                [
                    ("Bases", count(len(rows))),
                    ("Hours per million", f"{first[COST]:,.2f}"),
                    ("Cheapest as good", cheapest(rows, COST)["base"]),
                ],
            ),
            verdict=verdict(rows),
            order="By accuracy, best first.",
            charts=_charts(rows),
            table=_table(rows),
            made="Made from the stores and runs of the bases.",
            notes=[f"Failed: {line}" for line in failed],
        )
    )


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    def chart(cost: str, scale: str, of: Callable[[Any], tuple[float, str]]) -> Chart:
        points = [Priced(row["base"], row["accuracy"], *of(row)) for row in rows]
        return cost_chart(f"Accuracy by {cost} for a million images", scale, points)

    def hours(row: Mapping[str, Any]) -> tuple[float, str]:
        return row[COST], f"{row[COST]:.2f} hours"

    def size(row: Mapping[str, Any]) -> tuple[float, str]:
        return row["bytes_per_million"] / 2**30, size_text(row["bytes_per_million"])

    return [
        chart("hours", "Hours for a million images, on this machine", hours),
        chart("size", "GiB for a million images, as stored", size),
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = [
        [
            place_cell(place, row["base"]),
            interval_cell(row["accuracy"]),
            interval_cell(row.get("difference")),
            p_cell(row.get("p_value")),
            cell(row["images_per_second"], lambda value: f"{value:,.1f}"),
            cell(row["hours_per_million"], lambda value: f"{value:,.2f}"),
            cell(row["bytes_per_million"], size_text),
            shape_cell(row["feature_shape"]),
            cell(row["head"], str),
        ]
        for place, row in enumerate(rows, 1)
    ]
    note = (
        "Differences are taken in pairs over the same images; p is that of the sign test, with "
        "Holm's correction for the number of bases. Hours count the start of one command."
    )
    return Table(list(_COLUMNS), lines, note)
