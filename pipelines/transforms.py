"""The extraction as Beam steps: thin wrappers around the functions that do the work."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from classifier.inputs.refs import ShardDamaged
from featurestore.commit import Marker
from featurestore.storage import Storage
from pipelines.finish import DeadChunk, RunFacts, finish_run
from pipelines.options import WorkerSettings
from pipelines.plan import Chunk, Plan, read_chunk

NAMESPACE = "hoarfrost"
DEAD = "dead"
_LOG = logging.getLogger(__name__)


class ExtractChunk(beam.DoFn):
    """Extracts one planned chunk; yields its marker, or the dead chunk on the `DEAD` output."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        # TensorFlow is imported where chunks are extracted, not where the graph is built.
        from pipelines.worker import shared_worker

        self._worker = shared_worker(self._settings)
        # Beam's own names for inference (apache_beam.ml.inference), so that dashboards fit.
        self._inferences = Metrics.counter(NAMESPACE, "num_inferences")
        self._quarantined = Metrics.counter(NAMESPACE, "quarantined")
        self._latency = Metrics.distribution(NAMESPACE, "inference_batch_latency_micro_secs")

    def process(self, reference: tuple[str, int]) -> Iterator[str | TaggedOutput]:
        chunk = read_chunk(self._worker.store.storage, *reference)
        try:
            marker = self._worker.extractor.extract(chunk, self._settings.run_id, self._count)
        except (OSError, ShardDamaged) as error:
            yield TaggedOutput(DEAD, json.dumps(asdict(dead_chunk(chunk, error))))
            return
        yield marker.to_json()

    def _count(self, group) -> None:
        self._worker.report(group)
        self._inferences.inc(group.computed)
        self._quarantined.inc(len(group.quarantined))
        if group.computed:
            self._latency.update(int(group.infer_seconds * 1e6))


def dead_chunk(chunk: Chunk, error: BaseException) -> DeadChunk:
    """Describes a chunk that `error` ended."""
    message = " ".join(str(error).split()) or "no message"
    first = chunk.first_key
    _LOG.warning("chunk of %s failed: %s: %s", first, type(error).__name__, message)
    return DeadChunk(chunk.chunk_id, first, len(chunk.images), type(error).__name__, message)


class FinishRun(beam.DoFn):
    """Writes the run's ledger when every chunk is through."""

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


class ExtractFeatures(beam.PTransform):
    """Runs a plan: every chunk extracted and committed, then the run's ledger written.

    Args:
      settings: for the workers.
      plan: what to run.
      facts: for the run's record.
    """

    def __init__(self, settings: WorkerSettings, plan: Plan, facts: RunFacts) -> None:
        super().__init__()
        self._settings, self._plan, self._facts = settings, plan, facts

    def expand(self, pipeline):
        results = (
            pipeline
            | "List plan files" >> beam.Create(list(self._plan.files))
            # (plan file, number of chunks)
            | "Name chunks" >> beam.FlatMap(name_chunks)
            # (plan file, number of the chunk)
            | "Spread chunks" >> beam.Reshuffle()
            | "Extract chunks"
            >> beam.ParDo(ExtractChunk(self._settings)).with_outputs(DEAD, main="markers")
            # Marker as JSON; DeadChunk as JSON on the side
        )
        return (
            pipeline
            | "Start finishing" >> beam.Create([None])
            | "Finish run"
            >> beam.ParDo(
                FinishRun(self._settings, self._facts),
                beam.pvalue.AsList(results.markers),
                beam.pvalue.AsList(results[DEAD]),
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
