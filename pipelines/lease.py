"""A run's lease on a store: holds its plan while it lives, and sweeps what dead runs left.

A live run is one whose plan folder is there. On a local store its driver also holds a lock in that
folder, which the operating system lets go when the driver dies, however it dies; elsewhere a plan
counts as dead when it is a week old.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from featurestore import layout
from featurestore.storage import Storage

try:
    import fcntl
except ImportError:  # Windows: dead plans then go by age.
    fcntl = None  # type: ignore[assignment]

LOCK = "driver.lock"
DEAD_AFTER_SECONDS = 7 * 24 * 3600.0


@contextmanager
def lease(storage: Storage, run_id: str) -> Iterator[None]:
    """Holds the plan folder of a run; removes it at the end, and first what dead runs left.

    Args:
      storage: of the store.
      run_id: of the run.
    """
    sweep_dead_runs(storage, time.time())
    folder = layout.plan_folder(run_id)
    lock = None
    if storage.is_local and fcntl:
        os.makedirs(storage.path(folder), exist_ok=True)
        lock = open(storage.path(f"{folder}/{LOCK}"), "wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        storage.remove(folder)
        if lock:
            lock.close()


def sweep_dead_runs(storage: Storage, now: float) -> list[str]:
    """Removes the plans and the unfinished attempts of runs that died.

    Args:
      storage: of the store.
      now: seconds since the epoch.

    Returns:
      The run ids whose plans were removed.
    """
    newest: dict[str, float] = defaultdict(float)
    for file in storage.list("plans"):
        run_id = file.name.split("/")[0]
        newest[run_id] = max(newest[run_id], file.modified or now)
    dead = [run_id for run_id in newest if _is_dead(storage, run_id, now - newest[run_id])]
    for run_id in dead:
        storage.remove(layout.plan_folder(run_id))
    alive = newest.keys() - set(dead)
    if storage.is_local:
        # Only local stores keep unfinished attempts inside the store.
        attempts = storage.path("tmp")
        for name in os.listdir(attempts) if os.path.isdir(attempts) else ():
            if not any(name.startswith(f"{run_id}-") for run_id in alive):
                storage.remove(f"tmp/{name}")
        with suppress(OSError):
            os.rmdir(attempts)
    return dead


def _is_dead(storage: Storage, run_id: str, age: float) -> bool:
    if not (storage.is_local and fcntl):
        return age > DEAD_AFTER_SECONDS
    try:
        with open(storage.path(f"{layout.plan_folder(run_id)}/{LOCK}"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return age > DEAD_AFTER_SECONDS
    return True
