"""Interleaved rounds and what they give: medians, and ratios within a round.

A shared machine drifts by tens of per cent within minutes. A ratio of two contenders of the same
round hardly drifts, so the median of such ratios is what counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featurestore.errors import RunFailed


class NotRun(RunFailed):
    """A contender that cannot run here; its text says why, in one line."""


@dataclass(frozen=True)
class Timing:
    """One contender in one round.

    Attributes:
      rate: images per second from its first batch to its last result on disk; None if it ended
        too soon to measure.
      whole_rate: images per second of the whole command, start-up included.
      first_seconds: seconds from the command's start to its first batch.
      peak_bytes: highest resident memory of all its processes; None if not measured.
      numerics: (engine, precision), if known.
    """

    rate: float | None
    whole_rate: float
    first_seconds: float | None = None
    peak_bytes: int | None = None
    numerics: tuple[str, str] | None = None


@dataclass(frozen=True)
class Contender:
    """A way to process the images, which is timed.

    Attributes:
      name: its name in the tables.
      run: does the work once and times it; raises `NotRun` with the reason if it cannot.
    """

    name: str
    run: Callable[[], Timing]


@dataclass(frozen=True)
class Results:
    """The timings of all rounds.

    Attributes:
      timings: contender -> one timing per round.
      reasons: contender -> why it did not run.
    """

    timings: dict[str, list[Timing]]
    reasons: dict[str, str]

    def median(self, name: str, field: str) -> float | None:
        """Returns the median over the rounds of a field of `Timing`, None if one is missing."""
        values = [getattr(timing, field) for timing in self.timings.get(name, ())]
        return statistics.median(values) if values and None not in values else None

    def ratio(self, name: str, other: str, field: str = "rate") -> float | None:
        """Returns the median over the rounds of `name`'s field over `other`'s in that round."""
        return paired_ratio(self.column(name, field), self.column(other, field))

    def column(self, name: str, field: str = "rate") -> list[float | None]:
        """Returns a field of `Timing`, one value per round."""
        return [getattr(timing, field) for timing in self.timings.get(name, ())]


def interleave(
    contenders: Sequence[Contender], rounds: int, tell: Callable[[str], None]
) -> Results:
    """Runs every contender once per round, every other round backwards.

    A contender that cannot run is not tried again.

    Args:
      contenders: with distinct names.
      rounds: at least 1.
      tell: shows a line for each timing.
    """
    timings: dict[str, list[Timing]] = {contender.name: [] for contender in contenders}
    reasons: dict[str, str] = {}
    for index in range(rounds):
        order = contenders if index % 2 == 0 else contenders[::-1]
        for contender in order:
            if contender.name in reasons:
                continue
            try:
                timing = contender.run()
            except NotRun as reason:
                reasons[contender.name] = str(reason)
                tell(f"  round {index + 1}, {contender.name}: not run: {reason}")
                continue
            timings[contender.name].append(timing)
            shown = "-" if timing.rate is None else f"{timing.rate:,.1f}"
            tell(
                f"  round {index + 1}, {contender.name}: {shown} images/s, "
                f"{timing.whole_rate:,.1f} with start-up"
            )
    for name in reasons:
        timings.pop(name)
    return Results(timings, reasons)


def paired_ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """Returns the median of the ratios of two equally long series, None if a value is missing.

    Example:
      >>> paired_ratio([10, 30, 20], [5, 10, 20])
      2.0
    """
    if not ours or len(ours) != len(theirs):
        return None
    ratios = [
        mine / other if mine is not None and other else math.nan
        for mine, other in zip(ours, theirs, strict=True)
    ]
    return None if any(map(math.isnan, ratios)) else statistics.median(ratios)


def serial_limit(*rates: float | None) -> float | None:
    """Returns the rate of steps done one after another on the same cores: 1 / sum of 1 / rate.

    Example:
      >>> serial_limit(1000.0, 250.0)
      200.0
    """
    known = [rate for rate in rates if rate]
    return 1 / sum(1 / rate for rate in known) if known and len(known) == len(rates) else None
