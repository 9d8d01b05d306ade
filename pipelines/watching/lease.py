"""A run's lease on a store: keeps its plan while it lives, and removes what dead runs left.

A run is alive while its plan folder exists. On a local store its driver also holds a lock in that
folder, which the operating system releases when the driver dies. On other stores a plan counts as
dead when it is a week old. So does the plan of a job that its driver has left to itself.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
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


@dataclass
class Lease:
    """A run's lease.

    Attributes:
      storage: of the store.
      folder: of the plan, relative to the store.
      is_left: whether a job that goes on without its driver needs the plan.
    """

    storage: Storage
    folder: str
    is_left: bool = False

    def end(self) -> None:
        """Removes the plan, unless it was left."""
        if not self.is_left:
            self.storage.remove(self.folder)


@contextmanager
def lease(storage: Storage, run_id: str) -> Iterator[Lease]:
    """Keeps the plan folder of a run, and removes it at the end; first removes dead runs' files.

    Args:
      storage: of the store.
      run_id: of the run.
    """
    held = Lease(storage, layout.plan_folder(run_id))
    lock = None
    try:
        sweep_dead_runs(storage, time.time())
        if storage.is_local and locks.SUPPORTED:
            lock = _create_locked(storage.path(held.folder))
    except OSError as error:
        raise cannot_write("--output", storage.public_url, error) from error
    try:
        with at_interrupt(held.end):
            yield held
    finally:
        # A plan that cannot be removed now is a dead run's, and a later run removes it.
        with suppress(OSError):
            held.end()
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
        if locks.is_held(Path(storage.path(f"{layout.plan_folder(run_id)}/{LOCK}"))):
            return False
    except FileNotFoundError:
        return age > DEAD_AFTER_SECONDS
    return age > DEAD_AFTER_SECONDS or not _is_detached(storage, run_id)


def _is_detached(storage: Storage, run_id: str) -> bool:
    """Whether a run goes on without its driver."""
    try:
        return bool(json.loads(storage.read(layout.facts_file(run_id)))["detached"])
    except FileNotFoundError:
        return False
