"""Settles how this machine computes a store's features: its engine, and whether that agrees.

A run on one machine settles this in its driver. On distributed workers each process settles it for
its own machine: the first one decides the numerics of a new store, and the others follow it.
"""

from __future__ import annotations

import getpass
import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from classifier.engines import EngineChoice, StoredBase
from classifier.engines.hardware import this_machine
from classifier.engines.options import for_base, for_stored
from classifier.engines.probes import PROBES, require_numerics, synthetic_images, write_probes
from featurestore import layout
from featurestore.decision import Decision, decide
from featurestore.errors import SpecMismatch
from featurestore.store import FeatureStore, open_store
from pipelines.extraction.worker import shared_engine
from pipelines.opening.engine import Chosen, Sample, choose_engine
from pipelines.opening.sample import decoded_images, planned_refs, spread
from pipelines.settings import WorkerSettings
from pipelines.watching import locks

PROBE_SECONDS = 120.0
_SETTLING = threading.Lock()
_SETTLED: dict[WorkerSettings, WorkerSettings] = {}


def settled(settings: WorkerSettings) -> WorkerSettings:
    """Returns a worker's settings with the engine for this machine.

    Args:
      settings: of the run; without an engine if the driver left it to the workers.

    Raises:
      UsageError: when this machine cannot run the requested engine or precision.
      SpecMismatch: when its features differ from the store's by more than the store allows.
    """
    if settings.engine is not None:
        return settings
    with _SETTLING:
        if settings not in _SETTLED:
            with _alone(settings.store_url):
                _SETTLED[settings] = _settle_here(settings)
        return _SETTLED[settings]


@contextmanager
def _alone(store_url: str) -> Iterator[None]:
    """Lets one process of this machine settle at a time, so that none disturbs another's trial."""
    name = hashlib.sha256(f"{getpass.getuser()} {store_url}".encode()).hexdigest()[:16]
    with locks.hold(Path(tempfile.gettempdir(), f"hoarfrost-{name}.lock")):
        yield


def _settle_here(settings: WorkerSettings) -> WorkerSettings:
    store = open_store(settings.store_url, settings.storage_options)
    refs = None

    def sample(count: int) -> np.ndarray:
        nonlocal refs
        refs = refs or planned_refs(store.storage, settings.run_id)
        drawn = spread(refs, count + count // 4)
        return decoded_images(drawn, count, store.spec.pixels, settings.storage_options)

    store = decided(store, settings, sample)
    asked = for_base(settings.asked, store.spec.base)
    choice, reason = for_stored(store.spec.numerics, this_machine, asked)
    chosen = Chosen.of(choice, reason or "the store's own")
    if choice.numerics.hash != store.spec.numerics.hash:
        _await_probes(store)
    check_numerics(store, settings, chosen, sample)
    return replace(settings, engine=choice)


def _await_probes(store: FeatureStore) -> None:
    """Waits while the worker that decided makes the probe images, which takes seconds."""
    last = time.monotonic() + PROBE_SECONDS
    while not store.storage.exists(layout.PROBES) and time.monotonic() < last:
        time.sleep(1.0)


def decided(store: FeatureStore, settings: WorkerSettings, sample: Sample) -> FeatureStore:
    """Decides the numerics of a store that leaves them open, unless another worker has done it.

    Args:
      store: of the run.
      settings: the user's flags and the size of a batch.
      sample: draws images of the input.

    Returns:
      The store with its numerics.
    """
    if store.spec.numerics.is_decided:
        return store
    storage = store.storage
    base = StoredBase(storage, store.spec, settings.trust_model)
    chosen = choose_engine(settings.asked, settings.batch_size, base, sample, this_machine)
    if chosen.quantised:
        storage.write(layout.quantised_file(chosen.choice.model), chosen.quantised)
    decision = decide(storage, Decision(chosen.choice.numerics, chosen.record))
    if chosen.quantised and decision.numerics.model != chosen.choice.model:
        storage.remove(layout.quantised_file(chosen.choice.model))
    return replace(store, spec=replace(store.spec, numerics=decision.numerics))


def check_numerics(
    store: FeatureStore, settings: WorkerSettings, chosen: Chosen, sample: Sample
) -> float | None:
    """Makes the probes of a new store; refuses numerics that disagree with those of an old one.

    Args:
      store: of the run.
      settings: of the engine that runs the probes.
      chosen: the engine of this machine.
      sample: draws the images for new probes.

    Returns:
      By how much the numerics differ from the store's; None when they are the same.

    Raises:
      SpecMismatch: when the difference is beyond the store's tolerance.
    """
    has_probes = store.storage.exists(layout.PROBES)
    is_own = chosen.choice.numerics.hash == store.spec.numerics.hash
    if has_probes and is_own:
        return None
    if not has_probes and not is_own:
        raise SpecMismatch(
            f"the store at {store.url} has no probe images yet, which would show whether "
            f"{chosen.choice.label} agrees with its {store.spec.numerics.label}; run once with its "
            "own engine, precision and versions to make them"
        )
    engine = shared_engine(store, replace(settings, engine=chosen.choice))
    if not has_probes:
        pixels = sample(PROBES)
        if not len(pixels):
            pixels = synthetic_images(PROBES, store.spec.pixels.image_size)
        if write_probes(store.storage, engine, pixels, store.spec.base.taps):
            return None
    try:
        return require_numerics(store, engine)
    except SpecMismatch as error:
        if chosen.choice == EngineChoice.of(store.spec.numerics):
            raise
        reason = chosen.record["reason"]
        raise SpecMismatch(f"{error} (not the store's own engine: {reason})") from error
