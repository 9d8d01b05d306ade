"""Lets one compaction of a store work at a time: two could merge the same commit twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from featurestore.errors import UsageError
from featurestore.io.drafts import draft_name, is_dead_draft
from featurestore.io.storage import Storage

# Not below tmp/, from which a run removes everything that belongs to no run.
FOLDER = "compaction"
TURN = f"{FOLDER}/turn"
DEAD_AFTER_SECONDS = 7 * 24 * 3600.0


@contextmanager
def only_one(storage: Storage) -> Iterator[None]:
    """Holds the store's turn to compact; takes it over from a process that was killed.

    Raises:
      UsageError: when another process holds it.
    """
    name = f"{draft_name()} {int(time.time())}"
    if not storage.create(TURN, name):
        owner, _, since = storage.read(TURN).decode().partition(" ")
        age = time.time() - float(since or 0)
        if not is_dead_draft(owner) and age < DEAD_AFTER_SECONDS:
            raise UsageError(
                f"{storage.public_url}: another compaction works on this store, since "
                f"{age / 60:.0f} minutes; wait for it, or delete {TURN} in the store if its "
                "process has ended"
            )
        storage.remove(FOLDER)
        if not storage.create(TURN, name):
            raise UsageError(f"{storage.public_url}: another compaction has just begun")
    try:
        yield
    finally:
        storage.remove(FOLDER)
