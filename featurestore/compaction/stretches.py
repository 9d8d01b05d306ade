"""Which commits of a store a compaction merges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from featurestore import layout
from featurestore.commit import Marker, manifest_names, manifested
from featurestore.errors import CorruptStore
from featurestore.io.storage import Storage

# Clocks of two machines may differ by less than this.
CLOCK_SECONDS = 3600.0
# A part of at least this share of the size aimed at stays as it is.
LARGE = 0.5


@dataclass(frozen=True)
class Stretch:
    """Small commits that follow each other in the order of their first keys.

    Attributes:
      markers: at least two; of one run, if any of them supersedes keys.
    """

    markers: tuple[Marker, ...]

    @property
    def run_id(self) -> str:
        """The run of the merged commit: the newest.

        Its rows are those that count now, and what supersedes one of them from now on is a run that
        is newer than all that have ended. Of an older run, those rows would be hidden that a newer
        run wrote after it had superseded their keys.
        """
        return max(marker.run_id for marker in self.markers)

    @property
    def chunk_id(self) -> str:
        """The name of the merged chunk, which follows from the chunks that it replaces."""
        return layout.chunk_id([("compact", 0, marker.chunk_id) for marker in self.markers])


def stretches(storage: Storage, markers: Sequence[Marker], part_bytes: int) -> Iterator[Stretch]:
    """Yields what is to be merged.

    Commits of shards stay, because their markers account for the records of a file. Commits without
    rows and quarantined images stay, because only their names say what they are for. Commits that
    supersede keys are merged with those of their own run only: under a newer run they would hide
    rows that were written in between.

    Args:
      storage: of the store.
      markers: all commits that count, in their order.
      part_bytes: the size of part to aim at.
    """
    safe = settled(storage)
    waiting: dict[tuple[str, str], list[Marker]] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    for marker in markers:
        small = marker.files and marker.part_bytes < LARGE * part_bytes
        if marker.source or not small or marker.chunk_id not in safe:
            continue
        run_id = marker.run_id if marker.supersedes else ""
        group = (run_id, json.dumps(dict(marker.numerics), sort_keys=True))
        others = waiting.setdefault(group, [])
        if sizes[group] + marker.part_bytes > part_bytes:
            yield from _stretch(others)
            others.clear()
            sizes[group] = 0
        others.append(marker)
        sizes[group] += marker.part_bytes
    for others in waiting.values():
        yield from _stretch(others)


def _stretch(markers: Sequence[Marker]) -> Iterator[Stretch]:
    if len(markers) > 1:
        yield Stretch(tuple(markers))


def settled(storage: Storage) -> set[str]:
    """Returns the chunks that no unfinished run counts on.

    A run counts on the chunks of its plan, which holds no image that was stored when it began. So
    the chunks of runs that ended before are safe, and all that are in a manifest if no run is
    unfinished.
    """
    # Plans before manifests: a run that begins in between finds the manifests' images stored.
    unfinished = {file.name.partition("/")[0].lstrip(".") for file in storage.list("plans")}
    names = manifest_names(storage)
    if unfinished:
        oldest = min(map(_start, unfinished))
        names = [name for name in names if _end(storage, name) + CLOCK_SECONDS < oldest]
    return set(manifested(storage, names))


def _start(run_id: str) -> float:
    """Returns when a run began, in seconds since the epoch; 0 if its id does not say."""
    try:
        return datetime.strptime(f"{run_id[:21]}+0000", "%Y%m%dT%H%M%S%f%z").timestamp()
    except ValueError:
        return 0.0


def _end(storage: Storage, run_id: str) -> float:
    """Returns when a run ended; infinity if that is unknown."""
    try:
        finished = json.loads(storage.read(layout.run_file(run_id)))["finished"]
        return datetime.fromisoformat(finished).timestamp()
    except FileNotFoundError:
        return float("inf")
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStore(f"{layout.run_file(run_id)}: not a run's record: {error}") from error
