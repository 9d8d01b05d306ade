"""A run's lease on a store: keeps its plan while it lives, and removes what dead runs left.

A run is alive while its plan folder exists. On a local store its driver also holds a lock in that
folder, which the operating system releases when the driver dies. On other stores a plan counts as
dead when it is a week old.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO

from featurestore import layout
from featurestore.cli.interrupts import at_interrupt
from featurestore.errors import cannot_write
from featurestore.io.drafts import is_dead_draft
from featurestore.io.storage import Storage
from pipelines.watching import locks

LOCK = "driver.lock"
DEAD_AFTER_SECONDS = 7 * 24 * 3600.0


@contextmanager
def lease(storage: Storage, run_id: str) -> Iterator[None]:
    """Keeps the plan folder of a run, and removes it at the end; first removes dead runs' files.

    Args:
      storage: of the store.
      run_id: of the run.
    """
    folder = layout.plan_folder(run_id)
    lock = None
    try:
        sweep_dead_runs(storage, time.time())
        if storage.is_local and locks.SUPPORTED:
            lock = _create_locked(storage.path(folder))
    except OSError as error:
        raise cannot_write("--output", storage.public_url, error) from error
    try:
        with at_interrupt(partial(storage.remove, folder)):
            yield
    finally:
        # A plan that cannot be removed now is a dead run's, and a later run removes it.
        with suppress(OSError):
            storage.remove(folder)
        if lock:
            lock.close()


def _create_locked(folder: str) -> IO[str]:
    """Creates a folder that is locked from the start, and returns the lock."""
    parent, name = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    draft = os.path.join(parent, f".{name}")
    os.makedirs(draft)
    lock = locks.hold(Path(draft) / LOCK)
    os.rename(draft, folder)
    return lock


def new_run_id(now: float, others: Iterable[str]) -> str:
    """Returns a run id that sorts after every other, even if this machine's clock is slow.

    Args:
      now: seconds since the epoch.
      others: the run ids of the store.
    """
    stamp = int(now * 1e6)
    for other in others:
        with suppress(ValueError):
            moment = datetime.strptime(other[:21], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
            stamp = max(stamp, round(moment.timestamp() * 1e6) + 1)
    text = datetime.fromtimestamp(stamp / 1e6, UTC).strftime("%Y%m%dT%H%M%S%f")
    return f"{text}Z-{uuid.uuid4().hex[:6]}"


def sweep_dead_runs(storage: Storage, now: float) -> list[str]:
    """Removes the plans and the unfinished attempts of runs that died.

    Args:
      storage: of the store.
      now: seconds since the epoch.

    Returns:
      The run ids whose plans were removed.
    """
    # Lists attempts before plans, so that a run which begins in between counts as alive.
    attempts = storage.path("tmp")
    unfinished = os.listdir(attempts) if storage.is_local and os.path.isdir(attempts) else []
    newest: dict[str, float] = defaultdict(float)
    for file in storage.list("plans"):
        run_id = file.name.split("/")[0]
        newest[run_id] = max(newest[run_id], file.modified or now)
    dead = [run_id for run_id in newest if _is_dead(storage, run_id, now - newest[run_id])]
    for run_id in dead:
        storage.remove(layout.plan_folder(run_id))
    alive = newest.keys() - set(dead)
    for name in unfinished:
        if not any(name.startswith(f"{run_id}-") for run_id in alive):
            storage.remove(f"tmp/{name}")
    if storage.is_local:
        _sweep_drafts(storage.path(""))
        with suppress(OSError):
            os.rmdir(attempts)
    return dead


def _sweep_drafts(root: str) -> None:
    """Removes the half-written files of this machine's dead processes."""
    for folder in ("", *layout.FOLDERS):
        path = os.path.join(root, folder)
        for name in os.listdir(path) if os.path.isdir(path) else ():
            if is_dead_draft(name):
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(path, name))


def _is_dead(storage: Storage, run_id: str, age: float) -> bool:
    if not (storage.is_local and locks.SUPPORTED):
        return age > DEAD_AFTER_SECONDS
    if run_id.startswith("."):
        # A folder that is about to be locked.
        return age > 3600
    try:
        return not locks.is_held(Path(storage.path(f"{layout.plan_folder(run_id)}/{LOCK}")))
    except FileNotFoundError:
        return age > DEAD_AFTER_SECONDS
