"""The index in a store's ``index/``: sorted sets of images, of one or several runs each.

A set is never changed. It exists as soon as its list of commits does, which is written last. A set
that covers the commits of others replaces them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurestore.commit import Marker
from featurestore.index.rows import COMMITS, ORDERS, commit_numbers, merged_sets, sets_of
from featurestore.io.sorting import Columns
from featurestore.io.storage import Storage

FOLDER = "index"
# So few commits are read from their parts each time; more are written into the index.
UNINDEXED = 256


@dataclass(frozen=True)
class StoredSet:
    """A sorted set of images in the store's ``index/<name>/``.

    Attributes:
      name: of its folder.
      columns: see `featurestore.index.rows`; mapped into memory.
      commits: the numbers of the commits that it covers, sorted.
    """

    name: str
    columns: Columns
    commits: np.ndarray


def fresh_sets(storage: Storage, markers: Sequence[Marker], folder: Path) -> list[Columns]:
    """Reads the images of commits into one set, in files if there are many."""
    sets: list[Columns] = []
    for number, each in enumerate(sets_of(storage, markers)):
        if number == 0:
            sets.append(each)
            continue
        place = folder / f"fresh-{number}"
        place.mkdir()
        sets.append(merged_sets([each], place))
    if len(sets) > 1:
        whole = folder / "fresh"
        whole.mkdir()
        return [merged_sets(sets, whole)]
    return sets


def stored_sets(storage: Storage, folder: Path) -> list[StoredSet]:
    """Opens the sets of a store: local ones are mapped, others downloaded first."""
    names = sorted(
        file.name.partition("/")[0]
        for file in storage.list(FOLDER)
        if file.name.endswith(f"/{COMMITS}.npy")
    )
    sets = []
    for name in names:
        with suppress(FileNotFoundError):  # a run has just merged it into another
            sets.append(_open_set(storage, name, folder))
    # The largest first: what is left over from a merge then covers nothing new.
    return sorted(sets, key=lambda each: (-len(each.commits), each.name))


def _open_set(storage: Storage, name: str, folder: Path) -> StoredSet:
    columns: dict[str, np.ndarray] = {}
    for column in (COMMITS, *(column for names in ORDERS.values() for column in names)):
        path = Path(storage.path(f"{FOLDER}/{name}/{column}.npy"))
        if not storage.is_local:
            path = folder / name / f"{column}.npy"
            path.parent.mkdir(exist_ok=True)
            with storage.local_copy(f"{FOLDER}/{name}/{column}.npy") as copy:
                copy.rename(path)
        # An empty file cannot be mapped.
        few = path.stat().st_size < 1 << 16
        columns[column] = np.load(path, mmap_mode=None if few else "r", allow_pickle=False)
    commits = columns.pop(COMMITS)
    return StoredSet(name, columns, commits)


def write_set(
    storage: Storage,
    space: str,
    fresh: tuple[Columns, Sequence[Marker]],
    stored: Iterable[StoredSet],
    useless: Iterable[StoredSet],
) -> None:
    """Writes the images of commits that no set covers into a new one, if there are many.

    Sets of its size and smaller ones are merged into it, so that a store has few sets.

    Args:
      storage: of the store.
      space: folder for unfinished files, which names the set.
      fresh: the images and their commits.
      stored: the sets in the store.
      useless: sets whose images do not count; they are removed.
    """
    columns, markers = fresh
    if len(markers) < UNINDEXED:
        return
    parts, commits, merged = [columns], [commit_numbers(markers)], []
    for each in sorted(stored, key=lambda each: len(each.columns["key"])):
        if len(each.columns["key"]) > 2 * sum(len(part["key"]) for part in parts):
            break
        parts.append(each.columns)
        commits.append(each.commits)
        merged.append(each)
    name = f"{space.rpartition('/')[2]}-{uuid.uuid4().hex[:6]}"
    with storage.workspace(space) as folder:
        written = merged_sets(parts, folder)
        np.save(folder / f"{COMMITS}.npy", np.unique(np.concatenate(commits)))
        for column in (*written, COMMITS):
            storage.publish(folder / f"{column}.npy", f"{FOLDER}/{name}/{column}.npy")
    for each in (*merged, *useless):
        storage.remove(f"{FOLDER}/{each.name}/{COMMITS}.npy")
        storage.remove(f"{FOLDER}/{each.name}")
