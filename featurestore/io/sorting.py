"""Digests in sorted columns, in memory or mapped files: look-ups, merges in bounded memory.

Columns are arrays of equal length, ordered by the first of them, which holds digests: so they are
spread evenly, and a merge can take one range of them after the other.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

Columns = Mapping[str, np.ndarray]
# Rows that a merge holds in memory, and rows of a set of digests that stay in memory.
MERGED_AT_ONCE = 1 << 20


def digests(texts: Iterable[str]) -> np.ndarray:
    """Returns the first 16 bytes of the sha256 of each text, uint64 (n, 2)."""
    data = bytearray()
    for text in texts:
        data += hashlib.sha256(text.encode()).digest()
    return np.frombuffer(data, ">u8").reshape(-1, 4)[:, :2].astype(np.uint64)


def in_order(columns: Columns) -> dict[str, np.ndarray]:
    """Returns columns sorted by the first one."""
    order = np.argsort(next(iter(columns.values())), kind="stable")
    return {name: np.ascontiguousarray(values[order]) for name, values in columns.items()}


def merge(parts: Sequence[Columns], folder: Path | None = None) -> dict[str, np.ndarray]:
    """Merges sorted columns of the same names.

    Args:
      parts: at least one.
      folder: gets a file ``<name>.npy`` per column, which is mapped; None keeps all in memory.
    """
    names = list(parts[0])
    total = sum(len(part[names[0]]) for part in parts)
    merged = {
        name: _new_column(folder and folder / f"{name}.npy", total, parts[0][name].dtype)
        for name in names
    }
    ranges = max(1, total // MERGED_AT_ONCE)
    cuts = np.array([(number << 64) // ranges for number in range(1, ranges)], np.uint64)
    bounds = [_bounds(part[names[0]], cuts) for part in parts]
    start = 0
    for number in range(ranges):
        taken = [slice(each[number], each[number + 1]) for each in bounds]
        block = in_order(
            {
                name: np.concatenate(
                    [part[name][rows] for part, rows in zip(parts, taken, strict=True)]
                )
                for name in names
            }
        )
        stop = start + len(block[names[0]])
        for name in names:
            merged[name][start:stop] = block[name]
        start = stop
    return merged


def _new_column(path: Path | None, length: int, dtype: np.dtype) -> np.ndarray:
    if path is None or not length:  # an empty file cannot be mapped
        empty = np.empty(length, dtype)
        if path is not None:
            np.save(path, empty)
        return empty
    return np.lib.format.open_memmap(path, "w+", dtype, (length,))


def _bounds(column: np.ndarray, cuts: np.ndarray) -> list[int]:
    return [0, *np.searchsorted(column, cuts).tolist(), len(column)]


def matches(column: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds all rows of the wanted values.

    Args:
      column: sorted.
      wanted: values; look-ups are several times faster if they are sorted.

    Returns:
      (index in `wanted`, row) of each match, two arrays of int64.
    """
    none = np.empty(0, np.int64)
    if not len(column) or not len(wanted):
        return none, none
    first = np.searchsorted(column, wanted)
    hits = np.flatnonzero(column[np.minimum(first, len(column) - 1)] == wanted)
    first = first[hits]
    counts = np.searchsorted(column, wanted[hits], "right") - first
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return np.repeat(hits, counts), np.repeat(first, counts) + within


class DigestSet:
    """A set of 16-byte digests that keeps all but the newest in temporary files."""

    def __init__(self) -> None:
        self._runs: list[Columns] = []
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._made = 0

    def holds(self, digests: np.ndarray) -> np.ndarray:
        """Returns bool (n,): which of the digests, uint64 (n, 2), are in the set."""
        found = np.zeros(len(digests), bool)
        order = np.argsort(digests[:, 0])
        wanted = digests[order]
        for run in self._runs:
            index, rows = matches(run["digest"], wanted[:, 0])
            index = index[run["rest"][rows] == wanted[index, 1]]
            found[order[index]] = True
        return found

    def add(self, digests: np.ndarray) -> None:
        """Adds digests, uint64 (n, 2), that are not in the set."""
        new: Columns = in_order({"digest": digests[:, 0], "rest": digests[:, 1]})
        # Each run is at least twice as long as the next, so there are few of them.
        while self._runs and len(self._runs[-1]["digest"]) <= 2 * len(new["digest"]):
            new = self._merged([self._runs.pop(), new])
        self._runs.append(new)

    def _merged(self, parts: Sequence[Columns]) -> Columns:
        if sum(len(part["digest"]) for part in parts) < MERGED_AT_ONCE:
            return merge(parts)
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="hoarfrost-")
        folder = Path(self._files.name) / str(self._made)
        self._made += 1
        folder.mkdir()
        merged = merge(parts, folder)
        for name in merged:  # the mapping keeps the file
            (folder / f"{name}.npy").unlink()
        return merged
