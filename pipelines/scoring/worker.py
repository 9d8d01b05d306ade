"""The workers of a scoring: one that reads the rows of a store, and one that extracts images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from classifier.engines.hardware import this_machine
from classifier.engines.options import for_base, for_stored
from classifier.pixels.views import Views
from classifier.runs.run import load_run
from featurestore.commit import Marker
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.store import FeatureStore, open_store
from pipelines.extraction.attempt import CommitWork
from pipelines.extraction.commits import rows_of_commit
from pipelines.extraction.group import GroupResult
from pipelines.extraction.share import lane_count
from pipelines.extraction.source import ChunkSource
from pipelines.extraction.worker import AnyWorker, Outlet, Worker, shared_worker
from pipelines.planning.chunks import Chunk
from pipelines.scoring.heads import Scorer, ScoreWriter
from pipelines.scoring.spec import MOMENT, ScoreSpec
from pipelines.settings import ScoreSettings, WorkerSettings
from pipelines.watching.timing import ChunkClock, LaneClock

ROWS_AT_ONCE = 256
# Chunks that are under way at once; each is read, scored and written by its own thread.
AT_ONCE = 2


def scoring_worker(settings: ScoreSettings) -> AnyWorker:
    """Returns this process's worker of a scoring, which all of Beam's threads share."""
    return shared_worker(settings, _make)


def _make(settings: WorkerSettings) -> AnyWorker:
    assert isinstance(settings, ScoreSettings)
    storage = Storage(settings.store_url, settings.storage_options)
    run = load_run(settings.run_url, settings.storage_options)
    spec = ScoreSpec.read(storage)
    scores = FeatureStore(storage, spec.features)
    load = partial(Scorer.load, run, spec, lane_count(settings.processes))
    if settings.source_url:
        return StoreWorker(settings, scores, load)
    # As in prediction, this machine's engine need not be the one of the store.
    asked = for_base(settings.asked, spec.features.base)
    choice, _ = for_stored(spec.features.numerics, this_machine, asked)
    base = FeatureStore(run.storage, spec.features)
    scorer = cache(load)
    outlet = Outlet(base, scores, lambda path: ScoreWriter(path, scorer()), Views())
    worker = Worker(replace(settings, engine=choice), outlet)
    # Behind the base, whose engine decides on the threads and devices of TensorFlow; and before
    # the first chunk, whose lanes would wait.
    scorer()
    return worker


class StoreWorker(AnyWorker):
    """Scores the rows of a store in this process.

    Args:
      settings: of the run.
      scores: gets the rows.
      load: loads the heads.
    """

    def __init__(
        self, settings: ScoreSettings, scores: FeatureStore, load: Callable[[], Scorer]
    ) -> None:
        super().__init__(settings, scores)
        source = open_store(settings.source_url, settings.storage_options)
        source = source.tap_of(scores.spec.base).at_moment(scores.storage.read(MOMENT))
        self.start(settings, "stored features", AT_ONCE)
        self.extractor = StoreScorer(
            store=scores,
            clock=LaneClock(AT_ONCE),
            name=self.name,
            watch=self.watch,
            markers=source.markers(),
            scanner=source.scanner(source.markers().values()),
            writer=partial(ScoreWriter, scorer=load()),
        )


@dataclass(frozen=True)
class StoreScorer(CommitWork):
    """Scores commits of a store, each as one chunk.

    Attributes:
      writer: opens the file of a chunk's scores.
    """

    writer: Callable[[Path], ScoreWriter]

    def attempt(
        self,
        chunk: Chunk,
        run_id: str,
        on_group: Callable[[GroupResult], None],
        folder: Path,
        clock: ChunkClock,
    ) -> Marker:
        started, images = time.monotonic(), 0
        source = self.source_of(chunk)
        with self.writer(folder / "part.parquet") as writer:
            read = rows_of_commit(self.scanner, source, ROWS_AT_ONCE, views=(0,))
            for rows, features in clock.reading(read):
                with clock.works("infer"):
                    writer.write(rows, features)
                clock.passed(rows)
                images += len(rows)
                on_group(GroupResult(rows, features))
            with clock.works("infer"):
                part = writer.finish()
        ledger = Ledger(images, images)
        marker = Marker(
            chunk_id=chunk.chunk_id,
            run_id=run_id,
            first_key=chunk.first_key,
            ledger=ledger.check(f"chunk {chunk.chunk_id}"),
            numerics=source.numerics,
            seconds=round(time.monotonic() - started, 3),
            source=ChunkSource(chunk, {}, {}).shard_facts,
        )
        return self.commit(part, None, clock, marker)
