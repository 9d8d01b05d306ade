"""Reads the source images of stored rows again, from where they came from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from classifier.inputs.columns import unmarked
from classifier.inputs.records import file_etag
from classifier.inputs.refs import ShardRef, etag_of, shard_format
from classifier.inputs.shards import SHARD_ERRORS, iter_shard
from featurestore.commit import Marker
from featurestore.errors import UsageError, one_line
from featurestore.ignored import Ignored
from featurestore.io.retry import retrying
from featurestore.io.urls import ADDRESS_ERRORS, connect


@dataclass(frozen=True)
class StoredRow:
    """A row as the store holds it.

    Attributes:
      key, uri, size, etag, content_hash, view: its columns; the hash is "" for a quarantined
        image, whose size alone then tells whether it is the same.
      features: as stored, of any float type (\\*feature_shape).
      numerics: the hash of the numerics of its part.
      shard: the shard that it came from, or None.
    """

    key: str
    uri: str
    size: int
    etag: str
    content_hash: str
    view: int
    features: np.ndarray = field(repr=False)
    numerics: str = ""
    shard: ShardRef | None = None

    @property
    def name(self) -> str:
        """The row's name in messages."""
        return f"{self.key} (view {self.view})" if self.view else self.key


@dataclass(frozen=True)
class Missed:
    """The reason why a row's image cannot be had again.

    Attributes:
      kind: the kind of the finding.
      message: the cause and, where there is one, the fix.
    """

    kind: str
    message: str


Source = tuple[StoredRow, bytes | Missed]


def shard_of(facts: Mapping[str, Any]) -> ShardRef | None:
    """Returns the shard of a marker's ``source``; None for single images."""
    if not facts:
        return None
    named = {name: facts[name] for name in ("key", "uri", "size", "etag")}
    # Only bytes are wanted, so its folders need not be understood.
    return ShardRef(**named, format=shard_format(facts["key"]) or "", layout="flat")


def shard_under(uri: str, markers: Iterable[Marker]) -> Mapping[str, Any] | None:
    """Returns the ``source`` of the marker whose shard holds an image; None for a single image.

    Args:
      uri: the image's address, which begins with that of its shard.
      markers: the store's markers.
    """
    sources = (marker.source for marker in markers if marker.source)
    found = next((facts for facts in sources if uri.startswith(f"{facts['uri']}/")), None)
    # Another slice of the file may hold the image, so the whole file is searched.
    return {**found, "etag": file_etag(found["etag"])} if found else None


def read_sources(rows: Iterable[StoredRow], options: Mapping[str, Any]) -> Iterator[Source]:
    """Reads the images of rows again; consecutive rows of a shard share one pass over it.

    Args:
      rows: with those of one shard side by side.
      options: for the file systems.

    Yields:
      (row, the very bytes that were extracted, or the reason why they cannot be had).
    """
    for shard, group in itertools.groupby(rows, key=lambda row: row.shard):
        if shard is None:
            yield from ((row, _read_one(row, options)) for row in group)
        else:
            by_key: dict[str, list[StoredRow]] = {}
            for row in group:
                by_key.setdefault(row.key, []).append(row)
            yield from _read_shard(shard, by_key, options)


def _read_one(row: StoredRow, options: Mapping[str, Any]) -> bytes | Missed:
    try:
        fs, path = connect(row.uri, options)
        data = retrying(partial(fs.cat_file, path))
        return data if _is_same(data, row) else _other_bytes(_is_unchanged(fs, path, row))
    except FileNotFoundError:
        return Missed("missing_source", f"{row.uri} is gone; --prune drops its row")
    except (OSError, UsageError, *ADDRESS_ERRORS) as error:
        return _unreadable(row.uri, error)


def _read_shard(
    shard: ShardRef, rows: dict[str, list[StoredRow]], options: Mapping[str, Any]
) -> Iterator[Source]:
    missed = Missed("missing_source", f"{shard.uri} no longer holds it; --prune drops its row")
    try:
        fs, path = connect(shard.uri, options)
        unchanged = _is_unchanged(fs, path, shard)
        for ref, data in iter_shard(shard, options, Ignored()):
            for row in rows.pop(ref.key, ()):
                if isinstance(data, OSError):
                    yield row, _unreadable(row.uri, data)
                else:
                    yield row, data if _is_same(data, row) else _other_bytes(unchanged)
            if not rows:
                return
    except (UsageError, *SHARD_ERRORS) as error:
        missed = _unreadable(shard.uri, error)
        if isinstance(error, FileNotFoundError):
            missed = Missed("missing_source", f"{shard.uri} is gone; --prune drops its rows")
    for row in itertools.chain.from_iterable(rows.values()):
        yield row, missed


def _is_same(data: bytes, row: StoredRow) -> bool:
    if not row.content_hash:
        return len(data) == row.size
    return hashlib.sha256(data).hexdigest() == row.content_hash


def _is_unchanged(fs: Any, path: str, known: StoredRow | ShardRef) -> bool:
    info = retrying(partial(fs.info, path))
    etag = unmarked(file_etag(known.etag))
    return info.get("size") == known.size and etag_of(info) == etag


def _other_bytes(unchanged: bool) -> Missed:
    if unchanged:
        message = "its image has other bytes under the same size and time: no run will notice"
        return Missed("changed_unnoticed", message)
    message = "its image has changed since; the next extraction supersedes the row"
    return Missed("changed_source", message)


def _unreadable(uri: str, error: Exception) -> Missed:
    return Missed("unreadable_source", f"{uri} cannot be read: {one_line(error)}")
