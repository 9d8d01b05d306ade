"""Prepares the page's sections from a run's record and the times of its chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classifier.reporting.pictures import Picture
from classifier.reporting.tables import Cell, Table, cell, count, share
from featurestore.ignored import note_lines
from featurestore.units import compact, seconds_text
from pipelines.finishing.page.charts import COLOURS, lane_chart, rate_chart, state_chart
from pipelines.finishing.page.material import Material
from pipelines.finishing.page.timeline import Timeline

Fact = tuple[str, str]
MOST_WORKERS, MOST_LISTED = 32, 50
_WORDS = {
    "infer": "the base runs",
    "decode": "bytes become pixels",
    "read": "lanes wait for bytes",
    "write": "lanes wait for the store",
    "idle": "lanes have nothing to do",
}


@dataclass(frozen=True)
class BadKind:
    """The quarantined images of one kind.

    Attributes:
      kind: its name.
      count: of all of them.
      images: (key, message, picture) of the first ones.
    """

    kind: str
    count: int
    images: list[tuple[str, str, Picture]]


def content(
    record: Mapping[str, Any], material: Material, pictures: Mapping[str, Picture]
) -> dict[str, Any]:
    """Returns the template's variables.

    Args:
      record: of the run.
      material: of the run.
      pictures: uri -> picture of the quarantined images.
    """
    timeline, time = material.timeline, record["time"]
    workers = timeline.by_start()
    return {
        "rows": count(record["ledger"]["rows"]),
        "took": seconds_text(record["seconds"]),
        "headline": headline(record),
        "charts": [rate_chart(timeline), state_chart(timeline)] if workers else [],
        "state_key": [(name, *COLOURS[name], _WORDS[name]) for name in COLOURS],
        "lanes": lane_chart(timeline, workers[:MOST_WORKERS]) if workers else None,
        "workers": worker_table(timeline),
        "workers_drawn": MOST_WORKERS,
        "more_workers": max(0, len(workers) - MOST_WORKERS),
        "where": where_table(time),
        "steps": step_table(time),
        "bound": f"Bound by {time['bound']}: {time['advice']}." if "bound" in time else "",
        "bad": bad_kinds(record, material, pictures),
        "dead": record["dead"][:MOST_LISTED],
        "damaged": record["damaged"][:MOST_LISTED],
        "hidden": (
            max(0, len(record["dead"]) - MOST_LISTED),
            max(0, len(record["damaged"]) - MOST_LISTED),
        ),
        "ledger": ledger_facts(record["ledger"]),
        "engine": engine_facts(record),
        "inputs": record["inputs"][:MOST_LISTED],
        "notes": note_lines(record["notes"])[:MOST_LISTED],
    }


def headline(record: Mapping[str, Any]) -> list[Fact]:
    """Returns the figures at the top of the page."""
    time, ledger = record["time"], record["ledger"]
    facts = [("Images per second", compact(record["images_per_second"]))]
    if "workers" in time:
        facts.append(("Workers", f"{count(time['workers'])}, {count(time['lanes'])} lanes"))
    facts += [
        ("Quarantined", count(ledger["quarantined"])),
        ("Dead chunks", count(ledger["dead_chunks"])),
    ]
    if "retries" in time:
        facts.append(("Repeated requests", count(time["retries"])))
    if device := time.get("device"):
        facts.append(("Device busy", f"{share(device['busy'])}, {share(device['full'])} full"))
    return facts


def where_table(time: Mapping[str, Any]) -> Table:
    """Lays out the lanes' time by state, as seconds and shares."""
    spent = time.get("lane_seconds", {})
    total = sum(spent.values()) or 1.0
    rows = [
        [
            Cell(f"{name}: {_WORDS[name]}", name),
            cell(spent[name], seconds_text),
            cell(spent[name] / total, share, spent[name] / total),
        ]
        for name in COLOURS
        if name in spent
    ]
    return Table([("State of the lanes", False), ("Lane time", True), ("Share", True)], rows)


def step_table(time: Mapping[str, Any]) -> Table:
    """Lays out the run's time outside the lanes: before the first image, after the last chunk."""
    steps = dict(time.get("steps", {}))
    if "after_last_chunk" in time:
        steps["after the last chunk"] = time["after_last_chunk"]
    total = time["seconds"] or 1.0
    rows = [
        [
            Cell(name, name),
            cell(seconds, seconds_text),
            cell(seconds / total, share, min(1.0, seconds / total)),
        ]
        for name, seconds in steps.items()
    ]
    return Table([("Step", False), ("Time", True), ("Share of the run", True)], rows)


def worker_table(timeline: Timeline) -> Table:
    """Lays out the workers, in the order of their first chunk."""
    workers = timeline.by_start()
    rows = [
        [
            Cell(worker.name, worker.name),
            cell(worker.lanes, count),
            cell(worker.chunks, count),
            cell(worker.images, count),
            cell(worker.images_per_second, compact),
            cell(worker.busy, share, min(1.0, worker.busy)),
        ]
        for worker in workers[: 10 * MOST_WORKERS]
    ]
    hidden = len(workers) - len(rows)
    names = ("Worker", "Lanes", "Chunks", "Images", "Images/s", "At work")
    note = f"{hidden:,} more workers are not listed." if hidden else ""
    return Table([(name, name != "Worker") for name in names], rows, note)


def bad_kinds(
    record: Mapping[str, Any], material: Material, pictures: Mapping[str, Picture]
) -> list[BadKind]:
    """Returns the quarantined images by kind, the most frequent kind first."""
    counts = sorted(record["quarantined_by_kind"].items(), key=lambda item: (-item[1], item[0]))
    found = []
    for kind, number in counts:
        images = [
            (bad.row["key"], " ".join(bad.row["message"].split())[:200], pictures[bad.row["uri"]])
            for bad in material.bad.get(kind, ())
        ]
        found.append(BadKind(kind, number, images))
    return found


def ledger_facts(ledger: Mapping[str, int]) -> list[Fact]:
    """Returns the ledger: its balance, then what is not part of it."""
    return [(name.replace("_", " ").capitalize(), count(value)) for name, value in ledger.items()]


def engine_facts(record: Mapping[str, Any]) -> list[Fact]:
    """Returns the engine and what computed the features."""
    facts = []
    for used in record["numerics"]:
        facts.append(("Engine", f"{used.get('engine', '?')} {used.get('precision', '?')}"))
        facts.append(("Decoder", str(used.get("decoder", "?"))))
        facts += [(name, str(found)) for name, found in (used.get("versions") or {}).items()]
    if reason := record.get("engine", {}).get("reason"):
        facts.append(("Why this engine", reason))
    return facts
