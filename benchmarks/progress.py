"""Times ``python -m pipelines.extract`` from outside, by the files that it writes anyway.

A worker process reports its first group of images at once, then twice a second. A chunk is stored
when its marker exists. So the clock of the steady rate runs from the moment when every worker has
finished a group to the last commit, and the command that is timed is the one that a user runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.processes import Finished
from benchmarks.rounds import NotRun, Timing

Curve = list[tuple[float, int]]


@dataclass
class Progress:
    """Gathers the reports of a run's workers while it runs.

    Attributes:
      folder: the run's folder of temporary files.
      curves: for each worker, pairs of (seconds since the epoch, images so far).
    """

    folder: Path
    curves: dict[str, Curve] = field(default_factory=dict)

    def look(self) -> None:
        """Reads the new reports."""
        try:
            files = list(self.folder.glob("hoarfrost-run-*/*.json"))
        except FileNotFoundError:
            # The run has ended, and removed its folder during the listing.
            return
        for file in files:
            try:
                at, report = file.stat().st_mtime, json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            images = report.get("images", 0)
            curve = self.curves.setdefault(str(file), [])
            if images and (not curve or images > curve[-1][1]):
                curve.append((at, images))


def under_way(curves: Sequence[Curve]) -> tuple[float, float]:
    """Returns when every worker had reported, and how many images were done by then.

    Args:
      curves: of the workers; images are assumed to come evenly between two reports.

    Example:
      >>> under_way([[(10.0, 16), (12.0, 48)], [(11.0, 16), (12.0, 30)]])
      (11.0, 48.0)
    """
    at = max(curve[0][0] for curve in curves)
    through = [
        float(np.interp(at, [when for when, _ in curve], [images for _, images in curve]))
        for curve in curves
    ]
    return at, sum(through)


def extraction_timing(finished: Finished, progress: Progress, store: Path) -> Timing:
    """Returns the timing of an extraction, from its reports, its markers and its summary.

    Raises:
      NotRun: if it reported nothing, or if some image did not become a row.
    """
    curves = [curve for curve in progress.curves.values() if curve]
    summary = json.loads((store / "summary.json").read_text())
    ledger = summary["ledger"]
    if not curves or ledger["rows"] != ledger["images_in"]:
        raise NotRun(f"its ledger is {ledger}, and {len(curves)} workers reported")
    rows = ledger["rows"]
    last = max(path.stat().st_mtime for path in (store / "markers").glob("*.json"))
    at, through = under_way(curves)
    first = min(curve[0][0] for curve in curves)
    return Timing(
        rate=(rows - through) / (last - at) if rows > through and last > at else None,
        whole_rate=rows / finished.seconds,
        first_seconds=first - finished.started,
        peak_bytes=finished.peak_bytes,
        numerics=_numerics(summary),
    )


def _numerics(summary: Mapping) -> tuple[str, str] | None:
    """Returns (engine, precision), or None if the chunks of the run differ in it."""
    found = {(record["engine"], record["precision"]) for record in summary["numerics"]}
    return found.pop() if len(found) == 1 else None
