"""The page of contenders that were ranked by accuracy: their cost, intervals and standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.figures import curves
from classifier.judgement.ranking import percent
from classifier.reporting.diagrams import Chart, draw_chart
from classifier.reporting.frame import asset, environment, script_hash
from classifier.reporting.tables import MISSING, Cell, Table, share
from classifier.reporting.whiskers import Whisker, interval_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (430, 260)


@dataclass(frozen=True)
class StandingsPage:
    """The content of a page.

    Attributes:
      kind: of the page, in two words.
      title: of the page.
      url: what was ranked, or where.
      headline: the figure at the top, as `headline` gives it.
      verdict: the advice, as a sentence without its full stop.
      order: by what the standings are ordered, as a sentence.
      charts: accuracy by cost.
      table: the standings, best first.
      made: from what the page was made.
      notes: what a reader must know, such as contenders that failed.
      differences: heading -> differences to the first one.
    """

    kind: str
    title: str
    url: str
    headline: Mapping[str, Any]
    verdict: str
    order: str
    charts: Sequence[Chart]
    table: Table
    made: str
    notes: Sequence[str] = ()
    differences: Mapping[str, Sequence[Whisker]] = field(default_factory=dict)


def render(page: StandingsPage) -> str:
    """Returns the page.

    Raises:
      ReportMissing: without Jinja2.
    """
    template, script = environment().get_template("standings.html"), asset("page.js")
    style = asset("page.css")
    code = {"style": style, "script": script, "script_hash": script_hash(script)}
    return template.render(**code, **vars(page))


def headline(
    interval: Mapping[str, float], where: str, facts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Returns the figure at the top of a page: the accuracy of the best contender.

    Args:
      interval: its record.
      where: whose accuracy it is, and on which images.
      facts: (name, value) pairs beside it.
    """
    accuracy = share(interval["estimate"])
    text = interval_text(interval)
    return {"accuracy": accuracy, "interval": text, "where": where, "facts": facts}


@dataclass(frozen=True)
class Priced:
    """An accuracy and what it costs.

    Attributes:
      name: of the contender.
      accuracy: an interval's record.
      cost: a positive number.
      words: the cost with its unit.
    """

    name: str
    accuracy: Mapping[str, float]
    cost: float
    words: str


def cost_chart(title: str, scale: str, points: Sequence[Priced]) -> Chart:
    """Draws accuracy with its interval by cost.

    Args:
      title: shown above the chart.
      scale: what the costs are.
      points: best first; each is marked with its place.

    Raises:
      PlotsMissing: without Matplotlib.
    """
    words = (f"{one.name} {one.accuracy['estimate']:.1%}, {one.words}" for one in points)
    summary = f"{title[:1].lower()}{title[1:]}: " + "; ".join(words)
    return draw_chart(title, summary, lambda axes: _draw(axes, scale, points), SIZE)


def _draw(axes: Axes, scale: str, points: Sequence[Priced]) -> None:
    costs = np.array([one.cost for one in points])
    ends = ("lower", "estimate", "upper")
    lower, middle, upper = np.array([[one.accuracy[end] for end in ends] for one in points]).T
    axes.vlines(costs, lower, upper, color=curves.BLUE, lw=1.4, alpha=0.5)
    for place, (one, x, y) in enumerate(zip(points, costs, middle, strict=True), 1):
        words = f"{curves.WORDS}{one.name}: {y:.1%}, {one.words}"
        axes.plot([x], [y], "o", color=curves.BLUE, ms=7, gid=words)
        # Names would cover each other; the table has them by their places.
        where: dict[str, Any] = {"xytext": (-6, 5), "textcoords": "offset points", "ha": "right"}
        axes.annotate(str(place), (x, y), color=curves.GREY, **where)
    axes.set_xscale("log")
    axes.set_xlim(costs.min() / 1.6, costs.max() * 1.6)
    is_narrow = costs.max() < 30 * costs.min()
    curves.decades(axes.xaxis, (1, 2, 5) if is_narrow else (1,))
    axes.set_xlabel(scale)
    curves.share_scale(axes, np.concatenate([lower, upper]))
    curves.plain(axes)


def place_cell(place: int, name: str, link: str = "") -> Cell:
    """Returns the first cell of a row, which names the contender and may lead to its page."""
    return Cell(f"{place}.\N{NO-BREAK SPACE}{name}", str(place), link=link)


def interval_cell(interval: Mapping[str, float] | None) -> Cell:
    """Returns a share with its interval, or a dash."""
    return Cell(percent(interval), str(interval["estimate"])) if interval else Cell(MISSING, "")
