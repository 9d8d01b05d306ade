"""Reads what a run's page shows from the store: times of chunks, and a few quarantined images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from featurestore import layout
from featurestore.commit import Marker
from featurestore.store import FeatureStore
from pipelines.finishing.page.timeline import Timeline

PER_KIND, MOST_KINDS = 6, 8
# The examples come from the first files of the quarantine; a page need not read all of a bad run.
MOST_FILES = 200
_MARKERS_AT_ONCE = 1024


@dataclass(frozen=True)
class BadImage:
    """A quarantined image.

    Attributes:
      row: its columns, see `schema.QUARANTINE_SCHEMA`.
      shard: the ``source`` of its marker; empty for a single image.
    """

    row: Mapping[str, Any]
    shard: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Material:
    """What a run's page shows besides the run's record.

    Attributes:
      timeline: of its chunks.
      bad: kind -> the first quarantined images of that kind.
    """

    timeline: Timeline
    bad: dict[str, list[BadImage]] = field(default_factory=dict)


def gather(store: FeatureStore, record: Mapping[str, Any]) -> Material:
    """Reads the markers of a run, one after another, in bounded memory.

    Args:
      store: of the run.
      record: of the run.
    """
    material = Material(Timeline(started_at(record), record["seconds"]))
    kinds = list(record["quarantined_by_kind"].items())
    wanted = Counter(
        {kind: min(count, PER_KIND) for kind, count in sorted(kinds, key=_often)[:MOST_KINDS]}
    )
    files = 0
    for marker in markers_of_run(store, record):
        if marker.time:
            material.timeline.add(marker.time)
        if marker.quarantine and wanted.total() and files < MOST_FILES:
            files += 1
            _take(store, marker, wanted, material.bad)
    return material


def started_at(record: Mapping[str, Any]) -> float:
    """Returns a run's start in seconds since the epoch, to the microsecond if its id tells it.

    The id of a run whose clock was behind another run's is later than its start.
    """
    moment = datetime.strptime(record["started"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    exact = datetime.strptime(record["run_id"][:21], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    same = moment.timestamp() <= exact.timestamp() < moment.timestamp() + 1
    return exact.timestamp() if same else moment.timestamp()


def _often(kind: tuple[str, int]) -> tuple[int, str]:
    return -kind[1], kind[0]


def markers_of_run(store: FeatureStore, record: Mapping[str, Any]) -> Iterator[Marker]:
    """Yields the commits of a run, from its own manifest as far as that has them.

    Another run that ended meanwhile may have put some of them into its manifest.
    """
    run_id, seen = record["run_id"], set()
    name = layout.manifest_file(run_id)
    if store.storage.exists(name):
        with store.storage.open_parquet(name) as file:
            for batch in file.iter_batches(_MARKERS_AT_ONCE, columns=["marker"]):
                for text in batch["marker"].to_pylist():
                    marker = Marker.from_json(text, name)
                    if marker.run_id == run_id:
                        seen.add(marker.chunk_id)
                        yield marker
    if len(seen) < record["chunks"] - len(record["dead"]):
        for marker in store.markers().values():
            if marker.run_id == run_id and marker.chunk_id not in seen:
                yield marker


def _take(
    store: FeatureStore, marker: Marker, wanted: Counter[str], bad: dict[str, list[BadImage]]
) -> None:
    """Takes the images of a chunk that are still wanted as examples."""
    with store.storage.open_parquet(f"quarantine/{marker.quarantine}") as file:
        rows = file.read().to_pylist()
    for row in rows:
        if wanted[row["kind"]] > 0:
            wanted[row["kind"]] -= 1
            bad.setdefault(row["kind"], []).append(BadImage(row, marker.source))
