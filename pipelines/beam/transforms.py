"""The extraction as Beam steps: thin wrappers around the functions that do the work."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from classifier.inputs.refs import ShardDamaged
from featurestore.commit import Marker, committed
from featurestore.errors import one_line
from featurestore.io.storage import Storage
from pipelines.extraction.dedupe import (
    Occurrence,
    Reference,
    content_hashes,
    copies_of,
    copies_part,
    first_part,
)
from pipelines.extraction.group import GroupResult
from pipelines.finishing.record import DeadChunk, RunFacts, finish_run
from pipelines.options import WorkerSettings
from pipelines.planning.plan import Chunk, read_chunk

NAMESPACE = "hoarfrost"
DEAD, LATER = "dead", "later"
AT_ONCE = 2
# (marker, or dead chunk for its output; per group: rows computed, quarantined, seconds by batch)
Attempt = tuple[Marker | TaggedOutput, list[tuple[int, int, list[float]]]]


class OnWorker(beam.DoFn):
    """A step that uses this process's worker.

    Args:
      settings: of the run.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        # Imports TensorFlow, which only workers need: the driver just builds the graph.
        from pipelines.extraction.worker import shared_worker

        self._worker = shared_worker(self._settings)
        # Beam's own names for inference (apache_beam.ml.inference), so that dashboards fit.
        self._inferences = Metrics.counter(NAMESPACE, "num_inferences")
        self._quarantined = Metrics.counter(NAMESPACE, "quarantined")
        self._latency = Metrics.distribution(NAMESPACE, "inference_batch_latency_micro_secs")

    def read(self, reference: Reference) -> Chunk:
        """Reads a chunk of the plan."""
        return read_chunk(self._worker.store.storage, *reference)

    def extract(self, chunk: Chunk) -> Marker | TaggedOutput:
        """Extracts and commits a chunk; a dead chunk comes back for the `DEAD` output."""
        return self.counted(*self.attempt(chunk))

    def attempt(self, chunk: Chunk) -> Attempt:
        """Does the work of `extract` in any thread, without Beam's counters."""
        groups: list[tuple[int, int, list[float]]] = []

        def on_group(group: GroupResult) -> None:
            self._worker.report(group)
            groups.append((group.computed, len(group.quarantined), group.infer_seconds))

        try:
            done = self._worker.extractor.extract(chunk, self._settings.run_id, on_group)
        except (OSError, ShardDamaged) as error:
            return TaggedOutput(DEAD, json.dumps(asdict(dead_chunk(chunk, error)))), groups
        return done, groups

    def counted(
        self, done: Marker | TaggedOutput, groups: list[tuple[int, int, list[float]]]
    ) -> Marker | TaggedOutput:
        """Counts a chunk's groups, in Beam's own thread, where its counters work."""
        for computed, quarantined, seconds in groups:
            self._inferences.inc(computed)
            self._quarantined.inc(quarantined)
            for batch in seconds:
                self._latency.update(int(batch * 1e6))
        return done


class ExtractChunk(OnWorker):
    """Extracts planned chunks; yields their markers, and dead chunks on the `DEAD` output.

    Two chunks are under way at once, so that the lanes work on one while the other is committed.
    """

    def start_bundle(self) -> None:
        self._under_way: deque[Future[Attempt]] = deque()

    def process(self, reference: Reference) -> Iterator[str | TaggedOutput]:
        self._under_way.append(self._worker.feeders.submit(self.attempt, self.read(reference)))
        if len(self._under_way) == AT_ONCE:
            done = self._next()
            yield done.to_json() if isinstance(done, Marker) else done

    def finish_bundle(self) -> Iterator[WindowedValue | TaggedOutput]:
        while self._under_way:
            done = self._next()
            if isinstance(done, Marker):
                yield GlobalWindows.windowed_value(done.to_json())
            else:
                yield TaggedOutput(done.tag, GlobalWindows.windowed_value(done.value))

    def _next(self) -> Marker | TaggedOutput:
        try:
            return self.counted(*self._under_way.popleft().result())
        except BaseException:
            for future in self._under_way:
                future.cancel()
            raise


class HashChunk(OnWorker):
    """Yields (content hash, occurrence) of a chunk's images."""

    def setup(self) -> None:
        self._storage = Storage(self._settings.store_url, self._settings.storage_options)

    def process(self, reference: Reference) -> Iterator[tuple[str, Occurrence]]:
        chunk = read_chunk(self._storage, *reference)
        for content_hash, key in content_hashes(chunk, self._settings.storage_options):
            yield content_hash, (*reference, key)


class ExtractFirsts(OnWorker):
    """Extracts a chunk without its copies, which go to the `LATER` output."""

    def process(self, joined: Any) -> Iterator[str | TaggedOutput]:
        reference, groups = joined
        copies = sorted(groups["copies"])
        chunk, first_id = first_part(self.read(reference), copies), ""
        if chunk is not None:
            done = self.extract(chunk)
            if not isinstance(done, Marker):
                yield done
                return
            yield done.to_json()
            first_id = done.chunk_id
        yield TaggedOutput(LATER, (reference, copies, first_id))


class ExtractCopies(OnWorker):
    """Extracts the copies of a chunk, whose features are in the store."""

    def process(self, later: tuple[Reference, list[str], str]) -> Iterator[str | TaggedOutput]:
        reference, copies, first_id = later
        first = committed(self._worker.store.storage, first_id) if first_id else None
        chunk = copies_part(self.read(reference), copies, first)
        if chunk is not None:
            done = self.extract(chunk)
            yield done.to_json() if isinstance(done, Marker) else done


def dead_chunk(chunk: Chunk, error: BaseException) -> DeadChunk:
    """Describes a chunk that failed with `error`."""
    message = one_line(error)
    first = chunk.first_key
    return DeadChunk(chunk.chunk_id, first, len(chunk.images), type(error).__name__, message)


class FinishRun(beam.DoFn):
    """Writes the run's record when every chunk is done."""

    def __init__(self, settings: WorkerSettings, facts: RunFacts) -> None:
        self._settings, self._facts = settings, facts

    def process(self, _: None, markers: Iterable[str], dead: Iterable[str]) -> None:
        storage = Storage(self._settings.store_url, self._settings.storage_options)
        finish_run(
            storage,
            self._facts,
            [Marker.from_json(text, "a result") for text in markers],
            [DeadChunk(**json.loads(text)) for text in dead],
        )


class DedupeAndExtract(beam.PTransform):
    """Chunk references -> markers and dead chunks; computes each distinct content once."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__()
        self._settings = settings

    def expand(self, references: Any) -> tuple[Any, Any]:
        copies = (
            references
            | "Hash images" >> beam.ParDo(HashChunk(self._settings))
            # (content hash, (plan file, number of the chunk, key))
            | "Group contents" >> beam.GroupByKey()
            | "Find copies" >> beam.FlatMapTuple(lambda _, occurrences: copies_of(occurrences))
            # ((plan file, number of the chunk), key)
        )
        chunks = references | "Key chunks" >> beam.Map(lambda reference: (reference, None))
        firsts = (
            {"chunk": chunks, "copies": copies}
            | "Join copies" >> beam.CoGroupByKey()
            | "Extract firsts"
            >> beam.ParDo(ExtractFirsts(self._settings)).with_outputs(DEAD, LATER, main="markers")
        )
        # The shuffle is a barrier: copies start when every first is committed.
        later = (
            firsts[LATER]
            | "Await firsts" >> beam.Reshuffle()
            | "Extract copies"
            >> beam.ParDo(ExtractCopies(self._settings)).with_outputs(DEAD, main="markers")
        )
        markers = (firsts.markers, later.markers) | "All markers" >> beam.Flatten()
        dead = (firsts[DEAD], later[DEAD]) | "All dead chunks" >> beam.Flatten()
        return markers, dead


class ExtractFeatures(beam.PTransform):
    """Extracts and commits every chunk of a plan, then writes the run's record.

    Args:
      settings: for the workers.
      facts: of the run; its plan names the chunks.
    """

    def __init__(self, settings: WorkerSettings, facts: RunFacts) -> None:
        super().__init__()
        self._settings, self._facts = settings, facts

    def expand(self, pipeline: Any) -> Any:
        references = (
            pipeline
            | "List plan files" >> beam.Create(list(self._facts.plan.files))
            # (plan file, number of chunks)
            | "Name chunks" >> beam.FlatMap(name_chunks)
            # (plan file, number of the chunk)
            | "Spread chunks" >> beam.Reshuffle()
        )
        if self._settings.dedupe:
            markers, dead = references | "Dedupe" >> DedupeAndExtract(self._settings)
        else:
            extract = beam.ParDo(ExtractChunk(self._settings))
            results = references | "Extract chunks" >> extract.with_outputs(DEAD, main="markers")
            markers, dead = results.markers, results[DEAD]
        # Marker as JSON; DeadChunk as JSON
        return (
            pipeline
            | "Start finishing" >> beam.Create([None])
            | "Finish run"
            >> beam.ParDo(
                FinishRun(self._settings, self._facts),
                beam.pvalue.AsList(markers),
                beam.pvalue.AsList(dead),
            )
        )


def name_chunks(file: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Yields a reference to each chunk of a plan file.

    Example:
      >>> list(name_chunks(("plans/r/000000.parquet", 2)))
      [('plans/r/000000.parquet', 0), ('plans/r/000000.parquet', 1)]
    """
    name, count = file
    for number in range(count):
        yield name, number
