"""The page of a tournament: accuracy against cost, and the standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.figures import curves
from classifier.reporting.diagrams import Chart, draw_chart
from classifier.reporting.frame import asset, environment
from classifier.reporting.tables import MISSING, Cell, Table, cell, count
from featurestore.units import size_text
from pipelines.ranking.standings import advised, percent, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PACKAGE = "pipelines.ranking"
SIZE = (430, 260)
_COLUMNS = (
    ("Base", False),
    ("Accuracy (95%)", True),
    ("Behind the first (95%)", True),
    ("p", True),
    ("Images/s", True),
    ("Hours per million", True),
    ("Bytes per million", True),
    ("Features", False),
    ("Head", False),
)


def render(rows: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str]) -> str:
    """Returns the page.

    Args:
      rows: the standings, best first.
      title: of the page.
      notes: what a reader must know, such as bases that failed.

    Raises:
      ReportMissing: without Jinja2.
    """
    first = rows[0]
    return (
        environment(PACKAGE)
        .get_template("tournament.html")
        .render(
            style=asset("page.css"),
            script="",
            kind="tournament",
            title=title,
            url=", ".join(row["base"] for row in rows),
            facts=[
                ("Bases", count(len(rows))),
                (f"Images judged ({first['split']})", count(first["images"])),
                ("Most accurate", first["base"]),
                ("Cheapest as good", advised(rows)["base"]),
            ],
            verdict=verdict(rows),
            notes=notes,
            chart=_chart(rows),
            table=_table(rows),
        )
    )


def _chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    words = (
        f"{row['base']} {row['accuracy']['estimate']:.1%} in {row['hours_per_million']:.2f} hours"
        for row in rows
    )
    return draw_chart(
        "Accuracy by hours for a million images",
        "accuracy and hours for a million images: " + ", ".join(words),
        lambda axes: _draw(axes, rows),
        SIZE,
    )


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    hours = np.array([row["hours_per_million"] for row in rows])
    ends = ("lower", "estimate", "upper")
    lower, middle, upper = np.array([[row["accuracy"][end] for end in ends] for row in rows]).T
    axes.vlines(hours, lower, upper, color=curves.BLUE, lw=1.4, alpha=0.5)
    for place, (row, x, y) in enumerate(zip(rows, hours, middle, strict=True), 1):
        words = f"{curves.WORDS}{row['base']}: {y:.1%}, {x:.2f} h"
        axes.plot([x], [y], "o", color=curves.BLUE, ms=7, gid=words)
        # Names would cover each other; the table has them by their places.
        where: dict[str, Any] = {"xytext": (-6, 5), "textcoords": "offset points", "ha": "right"}
        axes.annotate(str(place), (x, y), color=curves.GREY, **where)
    axes.set_xscale("log")
    axes.set_xlim(hours.min() / 1.6, hours.max() * 1.6)
    curves.decades(axes.xaxis)
    axes.set_xlabel("Hours for a million images, on this machine")
    curves.share_scale(axes, np.concatenate([lower, upper]))
    curves.plain(axes)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = [
        [
            Cell(f"{place}. {row['base']}", str(place)),
            _percent(row["accuracy"]),
            _percent(row.get("difference")),
            cell(row.get("p_value"), lambda value: f"{value:.2g}"),
            cell(row["images_per_second"], lambda value: f"{value:,.1f}"),
            cell(row["hours_per_million"], lambda value: f"{value:,.2f}"),
            cell(row["bytes_per_million"], size_text),
            cell(", ".join(map(str, row["feature_shape"])), lambda text: f"({text})"),
            cell(row["head"], str),
        ]
        for place, row in enumerate(rows, 1)
    ]
    note = (
        "Differences are taken in pairs over the same images; p is that of the sign test, with "
        "Holm's correction for the number of bases. Hours count the start of one command."
    )
    return Table(list(_COLUMNS), lines, note)


def _percent(interval: Mapping[str, float] | None) -> Cell:
    return Cell(percent(interval), str(interval["estimate"])) if interval else Cell(MISSING, "")
