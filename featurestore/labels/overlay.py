"""Label overlays: labels and splits that were added after the rows. Parts are never edited.

Each ``labels/<version>.parquet`` holds the key, labels and split of the rows that it changes. The
newest version of a row wins; version names sort by time.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.io.sorting import MERGED_AT_ONCE, Columns, digests, in_order, matches, merge
from featurestore.io.storage import Storage

FOLDER = "labels"
ROWS_AT_ONCE = 1 << 16
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string()),
    ]
)
Change = tuple[list[str], str | None]


@dataclass(frozen=True)
class Overlay:
    """The labels and splits that replace those in the parts.

    Memory holds the different changes, and digests of up to a million keys per version; those of
    further keys are in temporary files.

    Attributes:
      versions: the names of the versions, the newest last.
      keys: per version, digests of its keys and the places of their changes, sorted.
      changes: all different (labels, split).
    """

    versions: tuple[str, ...] = ()
    keys: tuple[Columns, ...] = ()
    changes: tuple[Change, ...] = ()
    _space: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, storage: Storage, names: Iterable[str]) -> Overlay:
        """Reads versions of a store, the newest last."""
        names = tuple(names)
        if not names:
            return cls()
        places: dict[tuple[tuple[str, ...], str | None], int] = {}
        space = tempfile.TemporaryDirectory(prefix="hoarfrost-")
        keys = tuple(_keys_of(storage, name, places, Path(space.name)) for name in names)
        return cls(names, keys, tuple((list(labels), split) for labels, split in places), space)

    def apply(self, keys: Iterable[str], labels: np.ndarray, splits: np.ndarray) -> None:
        """Changes `labels` and `splits` in place: object arrays (n,), in the order of `keys`."""
        wanted = digests(keys)
        for columns in self.keys:
            index, rows = matches(columns["digest"], wanted[:, 0])
            same = columns["rest"][rows] == wanted[index, 1]
            for number, place in zip(index[same], columns["change"][rows[same]], strict=True):
                labels[number], splits[number] = self.changes[place]


def _keys_of(
    storage: Storage,
    name: str,
    places: dict[tuple[tuple[str, ...], str | None], int],
    folder: Path,
) -> Columns:
    """Reads the keys of a version; adds its changes to `places`."""
    parts: list[Columns] = []
    with storage.open_parquet(f"{FOLDER}/{name}.parquet") as version:
        for batch in version.iter_batches(MERGED_AT_ONCE):
            columns = (batch[column].to_pylist() for column in ("labels", "split"))
            found = [
                places.setdefault((tuple(labels), split), len(places))
                for labels, split in zip(*columns, strict=True)
            ]
            keys = digests(batch["key"].to_pylist())
            change = np.array(found, np.int64)
            parts.append(in_order({"digest": keys[:, 0], "rest": keys[:, 1], "change": change}))
    if len(parts) < 2:
        none = np.empty(0, np.uint64)
        return parts[0] if parts else {"digest": none, "rest": none, "change": none}
    (folder / name).mkdir()
    return merge(parts, folder / name)


def versions(storage: Storage) -> list[str]:
    """Returns the names of a store's label versions, the newest last."""
    suffix = ".parquet"
    names = (file.name for file in storage.list(FOLDER))
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def write_overlay(storage: Storage, changes: Iterator[tuple[str, list[str], str | None]]) -> str:
    """Writes a label version.

    Args:
      storage: of the store.
      changes: (key, labels, split) of the rows to change.

    Returns:
      The version's name, or "" when there are no changes.
    """
    blocks = iter(lambda: list(islice(changes, ROWS_AT_ONCE)), [])
    first = next(blocks, [])
    if not first:
        return ""
    now = time.time_ns() // 1000
    version = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now // 10**6))}{now % 10**6:06d}Z"
    name = f"{version}-{uuid.uuid4().hex[:6]}"
    # Not below tmp/, from which a run removes everything that belongs to no run.
    with storage.workspace(f"{FOLDER}/.{name}") as folder:
        path = folder / "version"
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for block in chain([first], blocks):
                rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in block]
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        storage.publish(path, f"{FOLDER}/{name}.parquet")
    return name
