"""The extraction as Beam steps: thin wrappers around the functions that do the work."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from classifier.inputs.refs import ShardDamaged
from featurestore.commit import Marker, committed
from featurestore.errors import one_line
from featurestore.io.storage import Storage
from pipelines.beam.run import on_worker
from pipelines.extraction.dedupe import (
    Occurrence,
    Reference,
    content_hashes,
    copies_of,
    copies_part,
    division,
    first_part,
)
from pipelines.extraction.group import GroupResult
from pipelines.finishing.closing import close_books
from pipelines.finishing.record import opened
from pipelines.planning.chunks import Chunk
from pipelines.planning.plan import read_chunk, reference
from pipelines.planning.runfolder import DeadChunk, RunFolder
from pipelines.scoring.spec import open_scores
from pipelines.settings import DeriveSettings, ScoreSettings, WorkerSettings

if TYPE_CHECKING:
    from pipelines.extraction.worker import AnyWorker

NAMESPACE = "hoarfrost"
AT_ONCE = 2
_LOG = logging.getLogger(__name__)
# A larger plan is named in groups, because the graph may have a few megabytes at most.
MOST_GROUPS = 4096
# (keys of the copies that a chunk leaves for later, id of the commit of the rest or "")
Left = tuple[list[str], str]
# (marker, or None for a dead chunk; per group: rows computed, quarantined, seconds by batch)
Attempt = tuple[Marker | None, list[tuple[int, int, list[float]]]]


class OnWorker(beam.DoFn):
    """A step that uses this process's worker.

    The step returns nothing that the run's books need: workers write it into the store. So a runner
    may repeat, reorder or lose elements, and one output per step is enough.

    Args:
      settings: of the run.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        with on_worker():
            self._worker = worker_of(self._settings)
        self._folder = RunFolder(self._worker.store.storage, self._settings.run_id)
        # Beam's own names for inference (apache_beam.ml.inference), so that dashboards fit.
        self._inferences = Metrics.counter(NAMESPACE, "num_inferences")
        self._quarantined = Metrics.counter(NAMESPACE, "quarantined")
        self._latency = Metrics.distribution(NAMESPACE, "inference_batch_latency_micro_secs")

    def read(self, reference: Reference) -> Chunk:
        """Reads a chunk of the plan."""
        return read_chunk(self._worker.store.storage, *reference)

    def extract(self, chunk: Chunk) -> Marker | None:
        """Extracts and commits a chunk; None for one that failed, which is recorded."""
        return self.counted(self.attempt(chunk))

    def attempt(self, chunk: Chunk) -> Attempt:
        """Does the work of `extract` in any thread, without Beam's counters."""
        groups: list[tuple[int, int, list[float]]] = []

        def on_group(group: GroupResult) -> None:
            self._worker.report(group)
            groups.append((group.computed, len(group.quarantined), group.infer_seconds))

        try:
            done = self._worker.extractor.extract(chunk, self._settings.run_id, on_group)
        except (OSError, ShardDamaged) as error:
            self._folder.write_dead(dead_chunk(chunk, error))
            return None, groups
        return done, groups

    def counted(self, attempt: Attempt) -> Marker | None:
        """Counts a chunk's groups, in Beam's own thread, where its counters work."""
        done, groups = attempt
        for computed, quarantined, seconds in groups:
            self._inferences.inc(computed)
            self._quarantined.inc(quarantined)
            for batch in seconds:
                self._latency.update(int(batch * 1e6))
        return done


class ExtractChunk(OnWorker):
    """Extracts planned chunks; yields nothing.

    Two chunks are under way at once, so that the lanes work on one while the other is committed.
    """

    def start_bundle(self) -> None:
        self._under_way: deque[Future[Attempt]] = deque()

    def process(self, reference: Reference) -> None:
        self._under_way.append(self._worker.feeders.submit(self.attempt, self.read(reference)))
        if len(self._under_way) == AT_ONCE:
            self._await_next()

    def finish_bundle(self) -> None:
        while self._under_way:
            self._await_next()

    def _await_next(self) -> None:
        try:
            self.counted(self._under_way.popleft().result())
        except BaseException:
            for future in self._under_way:
                future.cancel()
            raise


class HashChunk(OnWorker):
    """Yields (content hash, occurrence) of a chunk's images."""

    def setup(self) -> None:
        self._storage = Storage(self._settings.store_url, self._settings.storage_options)
        with on_worker():
            # Fails here, if this machine lacks the package of the store's protocol.
            assert self._storage.fs

    def process(self, reference: Reference) -> Iterator[tuple[str, Occurrence]]:
        chunk = read_chunk(self._storage, *reference)
        for content_hash, key in content_hashes(chunk, self._settings.storage_options):
            yield content_hash, (*reference, key)


class ExtractFirsts(OnWorker):
    """Extracts a chunk without its copies; yields (chunk, (keys of the copies, first's id))."""

    def process(self, joined: Any) -> Iterator[tuple[Reference, Left]]:
        reference, groups = joined
        copies = sorted(groups["copies"])
        planned = self.read(reference)
        if parts := division(planned, copies):
            self._folder.write_division(planned.chunk_id, parts)
        chunk, first_id = first_part(planned, copies), ""
        if chunk is not None:
            done = self.extract(chunk)
            first_id = done.chunk_id if done else ""
        yield reference, (copies, first_id)


class ExtractCopies(OnWorker):
    """Extracts the copies of a chunk, whose features are in the store; yields nothing."""

    def process(self, grouped: tuple[Reference, Iterable[Left]]) -> None:
        reference, left = grouped
        copies, first_id = next(iter(left))
        first = committed(self._worker.store.storage, first_id) if first_id else None
        chunk = copies_part(self.read(reference), copies, first)
        if chunk is not None:
            self.extract(chunk)


def worker_of(settings: WorkerSettings) -> AnyWorker:
    """Returns this process's worker of a run: one that extracts, derives or scores."""
    # Imports TensorFlow, which only workers need: the driver just builds the graph.
    if isinstance(settings, ScoreSettings):
        from pipelines.scoring.worker import scoring_worker

        return scoring_worker(settings)
    if isinstance(settings, DeriveSettings):
        from pipelines.deriving.worker import deriving_worker

        return deriving_worker(settings)
    from pipelines.extraction.worker import shared_worker
    from pipelines.opening.settling import settled

    return shared_worker(settled(settings))


def dead_chunk(chunk: Chunk, error: BaseException) -> DeadChunk:
    """Describes a chunk that failed with `error`."""
    message = one_line(error)
    first = chunk.first_key
    return DeadChunk(chunk.chunk_id, first, len(chunk.images), type(error).__name__, message)


class FinishRun(beam.DoFn):
    """Closes a run's books when every chunk is done.

    Args:
      settings: of the run.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def process(self, _: Any) -> None:
        storage = Storage(self._settings.store_url, self._settings.storage_options)
        with on_worker():
            folder = RunFolder(storage, self._settings.run_id)
            scores = isinstance(self._settings, ScoreSettings)
            close_books(folder, _LOG.info, open_scores if scores else opened)


class DedupeAndExtract(beam.PTransform):
    """Chunk references -> nothing, when each distinct content was computed once."""

    def __init__(self, settings: WorkerSettings, hints: Mapping[str, str]) -> None:
        super().__init__()
        self._settings, self._hints = settings, hints

    def expand(self, references: Any) -> Any:
        copies = (
            references
            | "Hash images" >> beam.ParDo(HashChunk(self._settings))
            # (content hash, (plan file, number of the chunk, key))
            | "Group contents" >> beam.GroupByKey()
            | "Find copies" >> beam.FlatMapTuple(lambda _, occurrences: copies_of(occurrences))
            # ((plan file, number of the chunk), key)
        )
        chunks = references | "Key chunks" >> beam.Map(lambda reference: (reference, None))
        return (
            {"chunk": chunks, "copies": copies}
            | "Join copies" >> beam.CoGroupByKey()
            | "Extract firsts" >> _hinted(ExtractFirsts(self._settings), self._hints)
            # (chunk, (keys of its copies, id of its first commit))
            # Copies start when every first is committed. On Dask a Reshuffle awaits nothing.
            | "Await firsts" >> beam.GroupByKey()
            | "Extract copies" >> _hinted(ExtractCopies(self._settings), self._hints)
        )


class ExtractFeatures(beam.PTransform):
    """Extracts and commits every chunk of a plan, then closes the run's books.

    Args:
      settings: for the workers; the run's folder names the rest.
      chunks: number of chunks in the plan.
      hints: Beam's resource hints for the steps that run the base, such as ``accelerator``.
    """

    def __init__(
        self, settings: WorkerSettings, chunks: int, hints: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._settings, self._chunks, self._hints = settings, chunks, hints or {}

    def expand(self, pipeline: Any) -> Any:
        groups = min(self._chunks, MOST_GROUPS)
        references = (
            pipeline
            # Creating more than one element reshuffles them, so that workers share the groups.
            | "Name groups" >> beam.Create(list(range(groups)))
            | "Name chunks"
            >> beam.FlatMap(name_chunks, self._settings.run_id, groups, self._chunks)
            # (plan file, number of the chunk)
        )
        if self._settings.dedupe:
            done = references | "Dedupe" >> DedupeAndExtract(self._settings, self._hints)
        else:
            step = _hinted(ExtractChunk(self._settings), self._hints)
            done = references | "Extract chunks" >> step
        keyed = done | "Key results" >> beam.Map(lambda result: ("", result))
        start = pipeline | "Start finishing" >> beam.Create([("", None)])
        return (
            (keyed, start)
            | "With a start" >> beam.Flatten()
            # Nothing comes out of the extraction, but the grouping awaits its end.
            | "Await chunks" >> beam.GroupByKey()
            | "Finish run" >> beam.ParDo(FinishRun(self._settings))
        )


def _hinted(step: OnWorker, hints: Mapping[str, str]) -> beam.PTransform:
    return beam.ParDo(step).with_resource_hints(**hints)


def name_chunks(group: int, run_id: str, groups: int, chunks: int) -> Iterator[Reference]:
    """Yields references to every `groups`-th chunk of a plan.

    Example:
      >>> list(name_chunks(1, "r", 256, 300))
      [('plans/r/000000.parquet', 1), ('plans/r/000001.parquet', 1)]
    """
    for number in range(group, chunks, groups):
        yield reference(run_id, number)
