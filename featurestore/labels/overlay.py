"""Label overlays: labels and splits that were added after the rows. Parts are never edited.

Each ``labels/<version>.parquet`` holds the key, labels and split of the rows that it changes. The
newest version of a row wins; version names sort by time.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from featurestore.io.storage import Storage, parquet_bytes

FOLDER = "labels"
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

    Attributes:
      changes: key -> (labels, split).
      versions: the names of the versions in `changes`, the newest last.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    versions: tuple[str, ...] = ()

    @classmethod
    def read(cls, storage: Storage, names: Iterable[str]) -> Overlay:
        """Reads versions of a store, the newest last."""
        changes: dict[str, Change] = {}
        names = tuple(names)
        for name in names:
            with storage.open_parquet(f"{FOLDER}/{name}.parquet") as version:
                for batch in version.iter_batches():
                    columns = (batch[column].to_pylist() for column in SCHEMA.names)
                    for key, labels, split in zip(*columns, strict=True):
                        changes[key] = (labels, split)
        return cls(changes, names)

    def apply(self, keys: Iterable[str], labels: np.ndarray, splits: np.ndarray) -> None:
        """Changes `labels` and `splits` in place: object arrays (n,), in the order of `keys`."""
        for index, key in enumerate(keys):
            if change := self.changes.get(key):
                labels[index], splits[index] = change


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
    rows = [{"key": key, "labels": labels, "split": split} for key, labels, split in changes]
    if not rows:
        return ""
    now = time.time_ns() // 1000
    version = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now // 10**6))}{now % 10**6:06d}Z"
    name = f"{version}-{uuid.uuid4().hex[:6]}"
    storage.write(f"{FOLDER}/{name}.parquet", parquet_bytes(pa.Table.from_pylist(rows, SCHEMA)))
    return name
