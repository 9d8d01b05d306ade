"""The worker of a derivation: reads the rows of a store and computes other features from them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from classifier.engines import Engine, StoredBase, limit_threads, run_padded
from classifier.engines.batching import lanes_for
from classifier.engines.probes import require_numerics
from classifier.engines.tail import TailEngine, maps_label, tail_of
from featurestore import layout
from featurestore.commit import Marker
from featurestore.io.readahead import ordered_map
from featurestore.ledger import Ledger
from featurestore.reading.counts import live_quarantined
from featurestore.spec import StoreSpec
from featurestore.store import FeatureStore, open_store
from featurestore.writer import PartWriter, write_quarantine
from pipelines.deriving.source import Derived, as_rgb
from pipelines.extraction.attempt import CommitWork
from pipelines.extraction.commits import rows_of_commit
from pipelines.extraction.group import GroupResult
from pipelines.extraction.share import lane_count
from pipelines.extraction.worker import AnyWorker, shared_engine, shared_worker, totals_of
from pipelines.planning.chunks import Chunk
from pipelines.settings import DeriveSettings, WorkerSettings
from pipelines.watching.timing import ChunkClock, LaneClock

# Chunks that are under way at once.
FEEDERS = 2
_LOADING = threading.Lock()
_TAILS: dict[tuple[str, str, str, int], TailEngine] = {}


def moment_file(run_id: str) -> str:
    """Returns the path of the names of the source's commits, in the folder of a run."""
    return f"{layout.plan_folder(run_id)}/moment.json"


def deriving_worker(settings: DeriveSettings) -> AnyWorker:
    """Returns this process's worker of a derivation, which all of Beam's threads share."""
    return shared_worker(settings, _make)


def _make(settings: WorkerSettings) -> AnyWorker:
    assert isinstance(settings, DeriveSettings)
    return DeriveWorker(settings)


class DeriveWorker(AnyWorker):
    """Derives the commits of a store in this process.

    Args:
      settings: of the run.

    Raises:
      UsageError: when this machine does not have the engine or precision that the driver chose.
      SpecMismatch: when it computes other features from pixels than the store allows.
    """

    extractor: StoreDeriver

    def __init__(self, settings: DeriveSettings) -> None:
        store = open_store(settings.store_url, settings.storage_options)
        super().__init__(settings, store)
        source = open_store(settings.source_url, settings.storage_options, settings.source_tap)
        source = source.at_moment(store.storage.read(moment_file(settings.run_id)))
        engine = deriving_engine(store, source.spec, settings)
        if source.spec.is_pixels:
            require_numerics(store, engine)
        lanes = lanes_for(engine, lane_count(settings.processes))
        self.start(settings, engine.numerics.label, FEEDERS)
        self.extractor = StoreDeriver(
            store=store,
            clock=LaneClock(lanes, totals=totals_of(engine)),
            name=self.name,
            watch=self.watch,
            engine=engine,
            lanes=ThreadPoolExecutor(lanes, "lane"),
            markers=source.markers(),
            scanner=source.scanner(source.markers().values()),
            derived=Derived(store, source),
            writer=partial(PartWriter, spec=store.spec),
        )

    def close(self) -> None:
        """Ends the threads when they are idle."""
        super().close()
        self.extractor.lanes.shutdown(wait=False)


def deriving_engine(store: FeatureStore, source: StoreSpec, settings: DeriveSettings) -> Engine:
    """Returns the engine of a derivation: the store's own for pixels, or its base's tail for maps.

    Args:
      store: the derived one.
      source: the spec of the other.
      settings: of the run; with its engine.
    """
    if source.is_pixels:
        return shared_engine(store, settings)
    assert settings.engine is not None, "the engine is settled before a base is loaded"
    precision, base = settings.engine.precision, store.spec.base
    name = (store.url, settings.layer, precision, settings.batch_size)
    with _LOADING:
        if name not in _TAILS:
            lanes = lane_count(settings.processes)
            limit_threads(lanes, lanes)
            model = StoredBase(store.storage, store.spec, settings.trust_model).load()
            rest = tail_of(model, settings.layer)
            _TAILS.clear()
            _TAILS[name] = TailEngine(
                rest, base, settings.batch_size, precision, maps_label(source)
            )
        return _TAILS[name]


@dataclass(frozen=True)
class StoreDeriver(CommitWork):
    """Derives commits of a store, each as one chunk.

    Attributes:
      engine: from pixels or maps to features.
      lanes: threads that call it.
      derived: what the store holds already.
      writer: opens the file of a chunk's rows.
    """

    engine: Engine
    lanes: Executor
    derived: Derived
    writer: Callable[[Path], PartWriter]

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
        quarantined = list(live_quarantined(self.scanner, source))
        with self.writer(folder / "part.parquet") as writer:
            read = clock.reading(rows_of_commit(self.scanner, source, self.engine.batch_size))
            process = partial(self._process, clock)
            for group in ordered_map(self.lanes, process, read, self.clock.lanes + 1):
                with clock.feeds("write"):
                    writer.write(group.rows, group.features)
                    quarantined.extend(group.quarantined)
                    clock.passed(group.images)
                    images += len(group.images)
                    on_group(group)
            with clock.feeds("write"):
                part = writer.finish()
        bad = write_quarantine(folder / "bad.parquet", quarantined) if quarantined else None
        ledger = dataclasses.replace(
            Ledger(images + len(quarantined), images, len(quarantined)),
            ignored=source.ledger.ignored,
        )
        marker = Marker(
            chunk_id=chunk.chunk_id,
            run_id=run_id,
            first_key=source.first_key,
            ledger=ledger.check(f"chunk {chunk.chunk_id}"),
            augmented=part.rows - images,
            numerics=self._numerics(source),
            seconds=round(time.monotonic() - started, 3),
            source=source.source,
            ignored=source.ignored,
            notes=source.notes,
            supersedes=source.supersedes,
            damage=source.damage,
            replaces=tuple(self.derived.replaced_by(source.chunk_id)),
            origin=source.chunk_id,
        )
        return self.commit(part, bad, clock, marker)

    def _numerics(self, source: Marker) -> Mapping[str, Any]:
        """Returns the engine's numerics, with the decoder that made the source's pixels."""
        own = vars(self.engine.numerics)
        return {**own, "decoder": source.numerics.get("decoder", own["decoder"])}

    def _process(
        self, clock: ChunkClock, batch: tuple[list[Mapping[str, Any]], np.ndarray]
    ) -> GroupResult:
        """Computes the features of some rows, in a lane."""
        rows, stored = batch
        started = time.monotonic()
        with clock.works("infer"):
            # A copy, because rows of a local part are mapped and read-only, and OpenVINO takes
            # writable arrays only.
            taken = as_rgb(stored) if stored.dtype == np.uint8 else stored
            features = run_padded(self.engine, np.array(taken))
        result = GroupResult(rows, features, computed=len(rows))
        result.infer_seconds.append(time.monotonic() - started)
        return result.without_non_finite()
