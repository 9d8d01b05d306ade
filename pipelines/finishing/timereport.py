"""Adds up where a run's time went, and finds its bottleneck and what to change."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.watching.timing import STATES

# Images of cameras and scanners, whose decoding costs more than a small base.
LARGE_MEGAPIXELS = 2.0
_ADVICE = {
    "infer": "the base is the bound; a faster engine or precision (--engine, --precision), a GPU "
    "or more workers would help",
    "decode": "more cores or more workers would help",
    "read": "move the input closer, or pack it into shards (python -m pipelines.pack)",
    "read shards": "move the input closer, or let more workers read shards of their own "
    "(--direct_num_workers)",
    "write": "the store is too slow; move it closer",
    "chunk ends": "the lanes wait at the ends of chunks; use a larger --chunk_size",
    "no chunk": "there were too few chunks for the workers; use a smaller --chunk_size",
    "start": "loading the libraries and the base takes longer than these images; extract more "
    "images per run",
}


@dataclass(frozen=True)
class RunTime:
    """What a report needs to know about a run besides its chunks' times.

    Attributes:
      started: seconds since the epoch.
      finished: seconds since the epoch.
      steps: of the driver before the workers begin: name -> seconds.
      workers: lower bound of the number of processes; 0 when unknown.
      shards: whether the input is shards.
    """

    started: float
    finished: float
    steps: Mapping[str, float] = field(default_factory=dict)
    workers: int = 0
    shards: bool = False


def time_report(times: Sequence[Mapping[str, Any]], run: RunTime) -> dict[str, Any]:
    """Adds up the times of a run's chunks.

    A worker's lanes also count as idle before its first chunk, between chunks, and after its last
    chunk while other workers go on.

    Args:
      times: `ChunkClock.record` of each chunk.
      run: the run of these chunks.

    Returns:
      seconds of the run, and its steps before the first image, of which ``workers`` is their start.
      If there were chunks, also seconds to_first_image and after_last_chunk; workers; their lanes;
      lane_seconds by state; idle_seconds by cause; megapixels per image; retries of requests; of
      a device such as a GPU, its busy and full shares; bound (``start`` or a state); advice.
    """
    seconds = round(run.finished - run.started, 3)
    report: dict[str, Any] = {"seconds": seconds, "steps": dict(run.steps)}
    if not times:
        return report
    begin, end = min(one["started"] for one in times), max(one["finished"] for one in times)
    first = min((one["first"] for one in times if one["first"]), default=end) - run.started
    lanes = {one["worker"]: one["lanes"] for one in times}
    missing = max(0, run.workers - len(lanes)) * max(lanes.values())
    idle = {"chunk ends": 0.0, "no chunk": missing * (end - begin)}
    for worker, (start, last, gaps) in _spans(times).items():
        idle["chunk ends"] += lanes[worker] * gaps
        idle["no chunk"] += lanes[worker] * (start - begin + end - last)
    spent = Counter[str]()
    for one in times:
        spent.update(one["lane_seconds"])
    idle["chunk ends"] += spent["idle"]
    spent["idle"] = sum(idle.values())
    images = sum(one["images"] for one in times)
    report["steps"] |= {"workers": round(max(0.0, first - sum(run.steps.values())), 3)}
    report |= {
        "to_first_image": round(first, 3),
        "after_last_chunk": round(run.finished - end, 3),
        "workers": max(len(lanes), run.workers),
        "lanes": sum(lanes.values()) + missing,
        "lane_seconds": {state: round(spent[state], 3) for state in STATES},
        "idle_seconds": {cause: round(seconds, 3) for cause, seconds in idle.items()},
        "megapixels": round(sum(one["megapixels"] for one in times) / max(1, images), 3),
        "retries": round(sum(one.get("retries", 0) for one in times)),
        **_device(times),
    }
    bound, cause = find_bound(report, run.shards)
    return {**report, "bound": bound, "advice": advice(cause, report["megapixels"])}


def _device(times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns how busy the workers' devices were, and how full their batches; {} without any.

    A device's time is that from the start of its worker's first chunk to the end of its last.
    """
    seen = [one for one in times if "device_seconds" in one]
    if not seen:
        return {}
    spans = _spans(seen).values()
    there = sum(last - start for start, last, _ in spans) or 1.0
    places = sum(one["device_places"] for one in seen) or 1.0
    return {
        "device": {
            "busy": round(sum(one["device_seconds"] for one in seen) / there, 4),
            "full": round(sum(one["device_images"] for one in seen) / places, 4),
            "devices": len(spans),
        }
    }


def _spans(times: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Returns the first start, the last end and the seconds between chunks of each worker."""
    by_worker = defaultdict(list)
    for one in times:
        by_worker[one["worker"]].append((one["started"], one["finished"]))
    result = {}
    for worker, spans in by_worker.items():
        spans.sort()
        gaps, last = 0.0, spans[0][0]
        for start, end in spans:
            gaps += max(0.0, start - last)
            last = max(last, end)
        result[worker] = (spans[0][0], last, gaps)
    return result


def find_bound(report: Mapping[str, Any], shards: bool) -> tuple[str, str]:
    """Finds the bottleneck of a run.

    Args:
      report: of `time_report`, without bound and advice.
      shards: whether the input is shards.

    Returns:
      (``start`` or a state, the cause to advise on).
    """
    if 2 * report["to_first_image"] > report["seconds"]:
        return "start", "start"
    spent, idle = report["lane_seconds"], report["idle_seconds"]
    state = max(STATES, key=lambda state: spent[state])
    if state == "idle":
        return state, max(idle, key=lambda cause: idle[cause])
    return state, "read shards" if state == "read" and shards else state


def advice(cause: str, megapixels: float) -> str:
    """Returns what a cause means, and what to change.

    Args:
      cause: from `find_bound`.
      megapixels: average per image.
    """
    if cause == "decode" and megapixels > LARGE_MEGAPIXELS:
        return (
            f"the images have {megapixels:.0f} megapixels; scale them down once, or use more "
            "workers"
        )
    return _ADVICE[cause]


def time_lines(report: Mapping[str, Any]) -> list[str]:
    """Returns a report as two lines for a person; none for a run without chunks."""
    if "lane_seconds" not in report:
        return []
    spent, lanes = report["lane_seconds"], report["lanes"]
    total = sum(spent.values()) or 1.0
    shares = ", ".join(f"{state} {spent[state] / total:.0%}" for state in STATES)
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in report["steps"].items())
    device = report.get("device")
    busy = (
        f"; device {device['busy']:.0%} busy, its batches {device['full']:.0%} full"
        if device
        else ""
    )
    return [
        f"time: {report['to_first_image']:.1f} s to the first image ({steps}), then on {lanes} "
        f"lane{'s' if lanes > 1 else ''}: {shares}{busy}",
        f"bound by {report['bound']}: {report['advice']}",
    ]
