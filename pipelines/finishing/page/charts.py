"""The charts of an extraction's page: throughput, what the lanes did, the workers' lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifier.figures.curves import BLUE, GREY, ORANGE, RULE, WORDS, plain
from classifier.reporting.diagrams import Chart, draw_chart
from featurestore.units import compact, seconds_text
from pipelines.finishing.page.timeline import BINS, Timeline, WorkerLane
from pipelines.watching.timing import STATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pixels of the page: a chart's width, a lane's height, and that of the axis below the lanes.
WIDTH, ROW, AROUND = 340, 13, 50
# Colour and opacity of each state, from the work that is wanted to what is only waiting.
COLOURS = {
    "infer": (BLUE, 0.95),
    "decode": (BLUE, 0.45),
    "read": (ORANGE, 0.85),
    "write": (ORANGE, 0.4),
    "idle": (GREY, 0.25),
}
assert set(COLOURS) == set(STATES)
# Marks of the time axis, in seconds.
_STEPS = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    14400,
    43200,
)


def rate_chart(timeline: Timeline) -> Chart:
    """Draws the images per second over the time of the run."""
    rates = timeline.rates
    summary = (
        f"images per second over {seconds_text(timeline.seconds)}: at most {compact(rates.max())}"
    )
    return draw_chart("Images per second", summary, lambda axes: _draw_rates(axes, timeline))


def _draw_rates(axes: Axes, timeline: Timeline) -> None:
    rates = timeline.rates
    edges = np.arange(BINS + 1) * timeline.width
    steps = np.append(rates, rates[-1])
    axes.fill_between(edges, steps, step="post", color=BLUE, alpha=0.18, lw=0)
    axes.step(edges, steps, where="post", color=BLUE, lw=1.6)
    axes.set_ylim(0, 1.1 * rates.max() or 1.0)
    _time_axis(axes, timeline)


def state_chart(timeline: Timeline) -> Chart:
    """Draws what the lanes did over the time of the run."""
    total = sum(float(seconds.sum()) for seconds in timeline.states.values()) or 1.0
    words = (f"{name} {timeline.states[name].sum() / total:.0%}" for name in COLOURS)
    summary = "what the lanes did over the time of the run: " + ", ".join(words)
    return draw_chart("Lanes by what they do", summary, lambda axes: _draw_states(axes, timeline))


def _draw_states(axes: Axes, timeline: Timeline) -> None:
    edges, below = np.arange(BINS + 1) * timeline.width, np.zeros(BINS + 1)
    for state, (colour, opacity) in COLOURS.items():
        lanes = timeline.states[state] / timeline.width
        above = below + np.append(lanes, lanes[-1])
        if lanes.any():
            axes.fill_between(edges, below, above, step="post", color=colour, alpha=opacity, lw=0)
        below = above
    axes.set_ylim(0, 1.05 * below.max() or 1.0)
    _time_axis(axes, timeline)


def lane_chart(timeline: Timeline, workers: Sequence[WorkerLane]) -> Chart:
    """Draws workers as lanes that are darker where they work more.

    Args:
      timeline: of the run.
      workers: that are drawn, at least one; the first on top.
    """
    summary = f"{len(workers)} workers over the time of the run: " + ", ".join(
        f"{worker.name} worked {worker.busy:.0%}" for worker in workers[:8]
    )
    height = AROUND + ROW * len(workers)
    return draw_chart(
        "Workers", summary, lambda axes: _draw_lanes(axes, timeline, workers), (WIDTH, height)
    )


def _draw_lanes(axes: Axes, timeline: Timeline, workers: Sequence[WorkerLane]) -> None:
    from matplotlib.patches import Rectangle

    for row, worker in enumerate(workers):
        for first, bins, share in worker.runs():
            begin, span = first * timeline.width, bins * timeline.width
            words = (
                f"{worker.name}: about {share:.0%} at work from {seconds_text(begin)} to "
                f"{seconds_text(begin + span)}"
            )
            place, opacity = (begin, row - 0.36), 0.15 + 0.8 * share
            axes.add_patch(
                Rectangle(place, span, 0.72, color=BLUE, alpha=opacity, lw=0, gid=WORDS + words)
            )
    axes.set_yticks(range(len(workers)), [worker.name for worker in workers], fontsize=8)
    axes.set_ylim(len(workers) - 0.4, -0.6)
    _time_axis(axes, timeline)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=RULE, lw=0.8)


def _time_axis(axes: Axes, timeline: Timeline) -> None:
    step = next((s for s in _STEPS if timeline.seconds / s <= 4), timeline.seconds / 4)
    marks = np.arange(0, timeline.seconds * 1.0001, step)
    axes.set_xlim(0, timeline.seconds)
    axes.set_xticks(marks, [_mark(mark, step) for mark in marks])
    plain(axes)


def _mark(seconds: float, step: float) -> str:
    """Returns a moment as the time axis writes it, such as ``2:30`` minutes or ``1:15 h``."""
    if seconds == 0:
        return "0"
    if step < 1:
        return f"{seconds:.1f} s"
    if step < 60:
        return f"{seconds:.0f} s" if seconds < 60 else f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
    if step < 3600 and seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f} h"
