"""The worker of a process: loads the base once, and keeps the lanes and the progress file."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from classifier.engines import Engine, StoredBase, load_engine
from classifier.engines.batching import device_totals, lanes_for
from classifier.engines.device import claim_device
from classifier.engines.engine import IDENTITY
from classifier.engines.hardware import this_machine
from classifier.engines.options import require_able
from classifier.engines.probes import require_numerics
from classifier.pixels.views import Views
from featurestore.io.retry import repeats
from featurestore.reuse import StoredFeatures
from featurestore.store import FeatureStore, open_store
from featurestore.writer import PartWriter
from pipelines.extraction.attempt import ChunkWork
from pipelines.extraction.chunk import Extractor
from pipelines.extraction.group import GroupDecoder, GroupResult
from pipelines.extraction.share import lane_count
from pipelines.planning.chunks import Chunk
from pipelines.settings import WorkerSettings
from pipelines.watching.progress import Reporter
from pipelines.watching.timing import LaneClock
from pipelines.watching.watch import Watch

_LOADING, _SHARING = threading.Lock(), threading.Lock()
_ENGINES: dict[Any, Engine] = {}

_SHARED: dict[WorkerSettings, AnyWorker] = {}


def shared_worker(
    settings: WorkerSettings, make: Callable[[WorkerSettings], AnyWorker] | None = None
) -> AnyWorker:
    """Returns this process's worker of a run, which all of Beam's threads share.

    Args:
      settings: of the run.
      make: makes the worker; by default one that extracts features.
    """
    with _SHARING:
        if settings not in _SHARED:
            # Not closed: on Dask a task of another run may still use it, in another thread. Its
            # threads end when the last one has dropped it.
            _SHARED.clear()
            _SHARED[settings] = (make or Worker)(settings)
        return _SHARED[settings]


class AnyWorker:
    """What the work of a process has: a store, threads that feed the lanes, the progress file.

    Args:
      settings: of the run.
      store: gets the rows.

    Attributes:
      extractor: does the chunks.
    """

    extractor: ChunkWork

    def __init__(self, settings: WorkerSettings, store: FeatureStore) -> None:
        # Comes first, because it watches whether the driver lives, and loading a base takes long.
        self.reporter = Reporter(settings.progress_folder)
        self.store, self.name = store, uuid.uuid4().hex[:8]

    def start(self, settings: WorkerSettings, label: str, feeders: int) -> None:
        """Starts the threads and tells that the worker is ready; `label` is its engine."""
        self.watch = Watch(settings.watching, self.reporter, settings.run_id, self.name, label)
        self.feeders = ThreadPoolExecutor(feeders, "feeder")

    def close(self) -> None:
        """Ends the threads when they are idle."""
        self.feeders.shutdown(wait=False)

    def report(self, group: GroupResult) -> None:
        """Counts a group for the progress line and for Prometheus."""
        self.watch.group(len(group.every), len(group.quarantined), group.infer_seconds)


class Outlet(NamedTuple):
    """Where a worker's rows go.

    Attributes:
      base: the store or the run that has the base.
      store: gets the rows.
      writer: opens the file of a chunk's rows.
      views: of each image.
    """

    base: FeatureStore
    store: FeatureStore
    writer: Callable[[Path], PartWriter]
    views: Views


class Worker(AnyWorker):
    """Extracts chunks for one run in this process.

    Args:
      settings: of the run.
      outlet: where the rows go; by default into the store that has the base.

    Raises:
      UsageError: when this machine does not have the engine or precision that the driver chose.
      SpecMismatch: when its features differ from the store's by more than the store allows.
    """

    extractor: Extractor

    def __init__(self, settings: WorkerSettings, outlet: Outlet | None = None) -> None:
        base, store, writer, views = outlet or _outlet(settings)
        super().__init__(settings, store)
        self.engine = shared_engine(base, settings)
        lanes = lanes_for(self.engine, lane_count(settings.processes))
        require_numerics(base, self.engine)
        self.start(settings, self.engine.numerics.label, max(4, 2 * lanes))
        self._indexing = threading.Lock()
        self._indexes: dict[bool, StoredFeatures] = {}
        self.extractor = Extractor(
            store=store,
            engine=self.engine,
            lanes=ThreadPoolExecutor(lanes, "lane"),
            readers=ThreadPoolExecutor(max(4, lanes), "reader"),
            clock=LaneClock(lanes, totals=totals_of(self.engine)),
            name=self.name,
            watch=self.watch,
            writer=writer,
            decoder=GroupDecoder(base.spec, views, settings.splits),
            storage_options=settings.storage_options,
            stored=self._stored if base is store else lambda chunk: None,
        )

    def close(self) -> None:
        """Ends the threads when they are idle."""
        super().close()
        self.extractor.lanes.shutdown(wait=False)
        self.extractor.readers.shutdown(wait=False)

    def _stored(self, chunk: Chunk) -> StoredFeatures:
        """Indexes the store for the first chunk that needs it, and again for copies."""
        with self._indexing:
            if chunk.is_copies not in self._indexes:
                self._indexes[chunk.is_copies] = StoredFeatures.of(self.store)
            return self._indexes[chunk.is_copies]


def _outlet(settings: WorkerSettings) -> Outlet:
    store = open_store(settings.store_url, settings.storage_options)
    return Outlet(store, store, partial(PartWriter, spec=store.spec), Views.of(store.spec))


def totals_of(engine: Engine) -> Callable[[], Mapping[str, float]]:
    """Returns what reads this process's running totals: repeated requests, a device's work."""
    return lambda: {"retries": repeats(), **device_totals(engine)}


def shared_engine(store: FeatureStore, settings: WorkerSettings) -> Engine:
    """Returns the engine of a store's base, which is loaded once per process.

    Only the newest engine is kept, because a process works for one store at a time.
    """
    choice = settings.engine
    assert choice is not None, "the engine is settled before a base is loaded"
    with _LOADING:
        name = _name_of(store, settings)
        if name not in _ENGINES:
            # The driver may run on another machine. An engine that lacks a precision here would
            # silently compute in another one.
            if choice != IDENTITY:
                require_able(choice, this_machine())
            if choice.engine == "tensorflow":
                claim_device()
            base = StoredBase(store.storage, store.spec, settings.trust_model)
            lanes = lane_count(settings.processes)
            engine = load_engine(base, choice, settings.batch_size, lanes)
            _ENGINES.clear()
            _ENGINES[name] = engine
        return _ENGINES[name]


def share_engine(store: FeatureStore, settings: WorkerSettings, engine: Engine) -> None:
    """Makes an engine that was loaded for a trial the one that `shared_engine` returns."""
    with _LOADING:
        _ENGINES.clear()
        _ENGINES[_name_of(store, settings)] = engine


def _name_of(store: FeatureStore, settings: WorkerSettings) -> Any:
    spec = store.spec
    return spec.base, spec.pixels.image_size, settings.engine, settings.batch_size
