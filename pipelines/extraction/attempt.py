"""What all work on a chunk has in common: attempts that may race, and one commit. Needs no Beam."""

from __future__ import annotations

import dataclasses
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from classifier.inputs.refs import ShardDamaged
from featurestore import layout
from featurestore.commit import Marker, commit, committed
from featurestore.reading.scan import Scanner
from featurestore.store import FeatureStore
from featurestore.writer import Written, publish
from pipelines.extraction.group import GroupResult
from pipelines.planning.chunks import Chunk
from pipelines.watching.timing import ChunkClock, LaneClock
from pipelines.watching.watch import Watch


@dataclass(frozen=True)
class ChunkWork(ABC):
    """Does and commits chunks in one process, whose threads share it.

    Attributes:
      store: gets the rows.
      clock: of the lanes.
      name: of this process, for the times in the markers.
      watch: is told of every chunk.
    """

    store: FeatureStore
    clock: LaneClock
    name: str
    watch: Watch

    def extract(self, chunk: Chunk, run_id: str, on_group: Callable[[GroupResult], None]) -> Marker:
        """Extracts and commits a chunk; safe to repeat, and to race with another attempt.

        Args:
          chunk: the images or the shard.
          run_id: recorded in the marker.
          on_group: is called with every group that is done, in the caller's thread.

        Returns:
          The committed marker, which may be another attempt's.

        Raises:
          OSError, ShardDamaged: when the input as a whole cannot be read.
          RunFailed: when a feature does not fit the stored dtype.
        """
        chunk_id, storage = chunk.chunk_id, self.store.storage
        if marker := committed(storage, chunk_id):
            return marker
        nonce = uuid.uuid4().hex[:8]
        try:
            space = storage.workspace(layout.attempt_folder(run_id, chunk_id, nonce))
            with space as folder, self.clock.chunk() as clock:
                return self.attempt(chunk, run_id, on_group, folder, clock)
        except FileNotFoundError as error:
            # Another attempt that committed removes this one's files.
            if marker := committed(storage, chunk_id):
                return marker
            self.watch.failed(chunk_id, chunk.first_key, error)
            raise
        except (OSError, ShardDamaged) as error:
            self.watch.failed(chunk_id, chunk.first_key, error)
            raise

    @abstractmethod
    def attempt(
        self,
        chunk: Chunk,
        run_id: str,
        on_group: Callable[[GroupResult], None],
        folder: Path,
        clock: ChunkClock,
    ) -> Marker:
        """Does and commits a chunk; arguments and errors as in `extract`.

        Args:
          chunk: the images or the shard.
          run_id: recorded in the marker.
          on_group: is called with every group that is done.
          folder: for unfinished files.
          clock: of the chunk.
        """

    def commit(
        self, part: Written, bad: Written | None, clock: ChunkClock, marker: Marker
    ) -> Marker:
        """Publishes the chunk's files, then the marker that names them."""
        storage = self.store.storage
        with clock.feeds("write"):
            if part.rows:
                marker = dataclasses.replace(
                    marker,
                    part=publish(storage, marker.chunk_id, part, "parts"),
                    part_sha256=part.sha256,
                    part_bytes=part.size,
                )
            if bad:
                marker = dataclasses.replace(
                    marker,
                    quarantine=publish(storage, marker.chunk_id, bad, "quarantine"),
                    quarantine_sha256=bad.sha256,
                )
        marker = commit(storage, dataclasses.replace(marker, time=clock.record(self.name)))
        if marker.time.get("worker") == self.name:
            self.watch.committed(marker)
        return marker


@dataclass(frozen=True)
class CommitWork(ChunkWork):
    """Work whose chunks are the commits of another store.

    Attributes:
      markers: the commits: chunk id -> marker.
      scanner: reads their rows.
    """

    markers: Mapping[str, Marker]
    scanner: Scanner

    def source_of(self, chunk: Chunk) -> Marker:
        """Returns the commit that a chunk stands for."""
        assert chunk.shard is not None
        return self.markers[chunk.shard.ref.etag]
