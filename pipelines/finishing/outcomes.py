"""What became of each planned chunk: committed, dead, or neither. Needs no Beam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from featurestore.commit import Marker
from featurestore.errors import RunFailed
from featurestore.io.storage import Storage
from pipelines.planning.plan import PlannedChunk, planned_chunks
from pipelines.planning.runfolder import DeadChunk, Division, RunFacts, RunFolder


@dataclass
class Outcomes:
    """The chunks of a plan, by what became of them.

    Attributes:
      committed: their markers, in the plan's order.
      dead: those that failed as a whole.
      missing: those that are not done.
    """

    committed: list[Marker] = field(default_factory=list)
    dead: list[DeadChunk] = field(default_factory=list)
    missing: list[PlannedChunk] = field(default_factory=list)

    def require_all(self, run_id: str) -> None:
        """Refuses to close the books of a run while a chunk is missing.

        Raises:
          RunFailed: naming the first missing chunk.
        """
        if self.missing:
            raise RunFailed(
                f"run {run_id}: {len(self.missing):,} chunks were neither committed nor recorded "
                f"as failed, first the one of {self.missing[0].first_key!r}; the runner lost "
                "them; give the same command again"
            )


def chunk_outcomes(storage: Storage, facts: RunFacts, markers: Mapping[str, Marker]) -> Outcomes:
    """Looks up each planned chunk among the store's commits and the run's failed chunks.

    Args:
      storage: of the store.
      facts: of the run.
      markers: of the store: chunk id -> marker.
    """
    outcomes, folder = Outcomes(), RunFolder(storage, facts.run_id)
    dead, divided = folder.dead(), folder.divided()
    for planned in planned_chunks(storage, facts.plan):
        for part in _parts(planned, divided.get(planned.chunk_id), markers):
            if part.chunk_id in markers:
                outcomes.committed.append(markers[part.chunk_id])
            elif part.chunk_id in dead:
                outcomes.dead.append(dead[part.chunk_id])
            else:
                outcomes.missing.append(part)
    return outcomes


def _parts(
    planned: PlannedChunk, division: Division | None, markers: Mapping[str, Marker]
) -> Iterator[PlannedChunk]:
    """Yields the chunks that stand for a planned one: itself, or the parts of `--dedupe`."""
    if division is None:
        yield planned
        return
    if division.first:
        yield planned._replace(chunk_id=division.first)
    if planned.images:
        yield planned._replace(chunk_id=division.copies)
        return
    first = markers.get(division.first)
    # A shard's first part tells whether it left copies out; a dead one leaves nothing to copy.
    if first and not first.source.get("complete", True):
        yield planned._replace(chunk_id=division.copies)
