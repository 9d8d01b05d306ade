"""Digests of stored images: those of a commit, and sorted sets of them in files.

A set holds one row per view-0 row or quarantined image, in four orders:

* by key: ``key`` and ``key_rest`` (digest of the key), ``uri``, ``version`` (digest of size and
  etag), ``content`` (of the content hash, 0 in quarantine), ``commit``, ``kind``;
* by place: ``place`` (of uri and version), ``place_uri``;
* by version: ``row_version``, of rows only;
* by content: ``row_content``, of rows only.

Images inside shards are only in the orders by key and by content, because a listing names shards.
All digests are the first 8 bytes of a sha256, those of keys 16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from featurestore.commit import Marker
from featurestore.io import readahead
from featurestore.io.sorting import Columns, digests, in_order, merge
from featurestore.io.storage import Storage

ROW, QUARANTINED, UNREADABLE, IN_SHARD = 0, 1, 2, 4
ORDERS = {
    "key": ("key", "key_rest", "uri", "version", "content", "commit", "kind"),
    "place": ("place", "place_uri"),
    "version": ("row_version",),
    "content": ("row_content",),
}
COMMITS = "commits"
# Rows that are sorted in memory at once.
ROWS_AT_ONCE = 1 << 21
_INPUT = ("key", "uri", "size", "etag")


def versions(sizes: Iterable[int], etags: Iterable[str]) -> np.ndarray:
    """Returns the digest of each file's version, uint64 (n,)."""
    pairs = zip(sizes, etags, strict=True)
    return digests(f"{size}\0{etag}" for size, etag in pairs)[:, 0]


def places(uris: np.ndarray, file_versions: np.ndarray) -> np.ndarray:
    """Returns a digest of each address with its version, uint64 (n,)."""
    return uris ^ (file_versions * np.uint64(0x9E3779B97F4A7C15))


def commit_numbers(markers: Iterable[Marker]) -> np.ndarray:
    """Returns a number for the files of each commit, uint64 (n,)."""
    return digests(f"{m.chunk_id}\0{m.part}\0{m.quarantine}" for m in markers)[:, 0]


def rows_of(storage: Storage, marker: Marker) -> dict[str, np.ndarray]:
    """Reads the images of one commit as the columns of the order by key, not sorted."""
    found = []
    if marker.part:
        with storage.open_parquet(f"parts/{marker.part}") as part:
            table = part.read(columns=[*_INPUT, "content_hash", "view"], use_threads=False)
        view = table["view"].to_numpy()
        if view.any():
            table = table.filter(view == 0)
        hashes = [text[:16] for text in table["content_hash"].to_pylist()]
        content = np.frombuffer(bytes.fromhex("".join(hashes)), ">u8").astype(np.uint64)
        values = [table[name].to_pylist() for name in _INPUT]
        found.append((values, content, np.full(len(content), ROW, np.uint8)))
    if marker.quarantine:
        with storage.open_parquet(f"quarantine/{marker.quarantine}") as file:
            table = file.read(columns=[*_INPUT, "kind"], use_threads=False)
        unreadable = [kind == "unreadable" for kind in table["kind"].to_pylist()]
        kinds = np.where(unreadable, UNREADABLE, QUARANTINED).astype(np.uint8)
        values = [table[name].to_pylist() for name in _INPUT]
        found.append((values, np.zeros(len(kinds), np.uint64), kinds))
    number = commit_numbers([marker])[0]
    blocks = [_columns(*block, number, bool(marker.source)) for block in found]
    return {
        name: np.concatenate([block[name] for block in blocks] or [np.empty(0, np.uint64)])
        for name in ORDERS["key"]
    }


def _columns(
    values: Sequence[list], content: np.ndarray, kind: np.ndarray, number: np.uint64, shard: bool
) -> dict[str, np.ndarray]:
    keys, uris, sizes, etags = values
    key = digests(keys)
    return {
        "key": key[:, 0],
        "key_rest": key[:, 1],
        "uri": digests(uris)[:, 0],
        "version": versions(sizes, etags),
        "content": content,
        "commit": np.full(len(key), number, np.uint64),
        "kind": kind | np.uint8(IN_SHARD if shard else 0),
    }


def sorted_set(rows: Columns) -> dict[str, np.ndarray]:
    """Sorts the images of some commits in all orders."""
    listed = rows["kind"] < IN_SHARD
    uris, file_versions = rows["uri"][listed], rows["version"][listed]
    is_row = (rows["kind"] & 3) == ROW
    return {
        **in_order({name: rows[name] for name in ORDERS["key"]}),
        **in_order({"place": places(uris, file_versions), "place_uri": uris}),
        "row_version": np.sort(rows["version"][listed & is_row]),
        "row_content": np.sort(rows["content"][is_row]),
    }


def sets_of(storage: Storage, markers: Iterable[Marker]) -> Iterator[dict[str, np.ndarray]]:
    """Reads the images of commits; yields sorted sets of some millions of images.

    The last set is yielded even if it is empty.
    """
    blocks: list[dict[str, np.ndarray]] = []
    count = 0
    tasks = (partial(rows_of, storage, marker) for marker in markers)
    for block in readahead.in_order(tasks):
        blocks.append(block)
        count += len(block["key"])
        if count >= ROWS_AT_ONCE:
            yield sorted_set(_joined(blocks))
            blocks, count = [], 0
    yield sorted_set(_joined(blocks))


def _joined(blocks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    dtypes = {"kind": np.uint8}
    return {
        name: np.concatenate(
            [np.empty(0, dtypes.get(name, np.uint64)), *(block[name] for block in blocks)],
            dtype=dtypes.get(name, np.uint64),
        )
        for name in ORDERS["key"]
    }


def merged_sets(sets: Sequence[Columns], folder: Path) -> dict[str, np.ndarray]:
    """Merges sets into files of a folder, one order after the other."""
    merged: dict[str, np.ndarray] = {}
    for names in ORDERS.values():
        merged |= merge([{name: each[name] for name in names} for each in sets], folder)
    return merged
