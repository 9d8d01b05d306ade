"""The images that a store holds, found by digest in memory that does not grow with the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from featurestore.commit import Marker
from featurestore.index.rows import IN_SHARD, ROW, commit_numbers, places
from featurestore.index.stored import StoredSet, fresh_sets, stored_sets, write_set
from featurestore.io.sorting import Columns, digests, matches
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.reading.visibility import Visibility

BLOCK = 1 << 20
_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Held:
    """What a store holds under some keys; arrays of one entry per key.

    Attributes:
      found: whether anything is stored under the key.
      uri: digest of the address.
      version: digest of size and etag.
      kind: see `featurestore.index.rows`.
      commit: index into `Index.markers`.
    """

    found: np.ndarray
    uri: np.ndarray
    version: np.ndarray
    kind: np.ndarray
    commit: np.ndarray


@dataclass
class Index:
    """The images of a store's commits that were not superseded.

    Attributes:
      markers: all commits, ordered by `numbers`.
      numbers: uint64 (n,), sorted.
      sets: the images, in sorted sets.
      stored: those of the sets that are in the store; they come first.
      foreign: per stored set, the commits whose images in it do not count, because the commits are
        gone or another set holds their images.
      useless: stored sets that are not among the sets, because none of their images counts.
      fresh: the commits whose images are in no stored set.
      dead: per set, the rows that do not count, int64, sorted.
    """

    markers: Sequence[Marker]
    numbers: np.ndarray
    sets: Sequence[Columns]
    stored: Sequence[StoredSet] = ()
    foreign: Sequence[np.ndarray] = ()
    useless: Sequence[StoredSet] = ()
    fresh: Sequence[Marker] = ()
    dead: Sequence[np.ndarray] = ()
    _space: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, storage: Storage, markers: Iterable[Marker]) -> Self:
        """Opens the index of a store, and reads the commits that are not in it.

        Args:
          storage: of the store.
          markers: all commits that count.
        """
        every = list(markers)
        numbers = commit_numbers(every)
        order = np.argsort(numbers)
        space = tempfile.TemporaryDirectory(prefix="hoarfrost-")
        stored, foreign, useless = [], [], []
        covered = np.zeros(len(every), bool)
        # Two runs that end at the same time may write the same commits.
        for each in stored_sets(storage, Path(space.name)):
            own = np.isin(numbers, each.commits) & ~covered
            covered |= own
            if own.any():
                stored.append(each)
                foreign.append(np.setdiff1d(each.commits, numbers[own]))
            else:
                useless.append(each)
        fresh = [marker for marker, known in zip(every, covered, strict=True) if not known]
        sets = [each.columns for each in stored] + fresh_sets(storage, fresh, Path(space.name))
        index = cls([every[at] for at in order], numbers[order], sets, stored, foreign, useless)
        index.fresh, index._space = fresh, space
        index.hide(every)
        return index

    @classmethod
    def empty(cls) -> Self:
        """Returns the index of a store without images."""
        index = cls([], np.empty(0, np.uint64), [])
        index.hide([])
        return index

    @cached_property
    def _runs(self) -> np.ndarray:
        """The run of each commit as a number that sorts like its id."""
        names = np.array([marker.run_id for marker in self.markers], object)
        return np.unique(names, return_inverse=True)[1] if len(names) else _NOTHING

    def hide(self, markers: Iterable[Marker]) -> None:
        """Finds the rows that do not count, because their commit is gone or a newer one superseded.

        Args:
          markers: the commits whose `supersedes` apply; commits without rows may be new.
        """
        superseded = Visibility.of(markers).superseded
        names = sorted(set(superseded.values()) | {marker.run_id for marker in self.markers})
        rank = {name: place for place, name in enumerate(names)}
        own = np.array([rank[marker.run_id] for marker in self.markers], np.int64)
        keys, by = digests(superseded), np.array([rank[run] for run in superseded.values()])
        order = np.argsort(keys[:, 0])
        keys, by = keys[order], by[order]
        dead = []
        for number, columns in enumerate(self.sets):
            index, rows = matches(columns["key"], keys[:, 0])
            same = columns["key_rest"][rows] == keys[index, 1]
            index, rows = index[same], rows[same]
            commit, known = self._commits_of(columns["commit"][rows])
            hidden = rows[known & (own[commit] < by[index])] if len(rows) else rows
            dead.append(np.union1d(hidden, self._foreign_rows(number)))
        self.dead = dead
        self._dead_places = _joined(columns["place"] for columns in self._dead_columns())
        self._dead_versions = _joined(columns["row_version"] for columns in self._dead_columns())
        self._dead_contents = _joined(columns["row_content"] for columns in self._dead_columns())

    def _foreign_rows(self, number: int) -> np.ndarray:
        if number >= len(self.foreign) or not len(self.foreign[number]):
            return _NOTHING
        column, gone = self.sets[number]["commit"], self.foreign[number]
        blocks = (
            start + np.flatnonzero(np.isin(column[start : start + BLOCK], gone))
            for start in range(0, len(column), BLOCK)
        )
        return np.concatenate([_NOTHING, *blocks])

    def _dead_columns(self) -> Iterable[dict[str, np.ndarray]]:
        for columns, dead in zip(self.sets, self.dead, strict=True):
            uri, version, kind = (columns[name][dead] for name in ("uri", "version", "kind"))
            listed, is_row = kind < IN_SHARD, (kind & 3) == ROW
            yield {
                "place": places(uri, version)[listed],
                "row_version": version[listed & is_row],
                "row_content": columns["content"][dead][is_row],
            }

    def _commits_of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the places of commits in `markers`, and whether they are there."""
        if not len(self.numbers):
            return np.zeros(len(numbers), np.int64), np.zeros(len(numbers), bool)
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return at, self.numbers[at] == numbers

    def live_rows(self, columns: Columns) -> Iterator[np.ndarray]:
        """Yields the numbers of a set's rows that count, in blocks, without quarantined images."""
        for start in range(0, len(columns["kind"]), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(columns["kind"])))
            yield rows[self.are_rows(columns, rows)]

    def are_rows(self, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Returns bool (n,): which of a set's rows count and are no quarantined images."""
        dead = next(d for each, d in zip(self.sets, self.dead, strict=True) if each is columns)
        is_row = (columns["kind"][rows] & 3) == ROW
        return is_row & ~np.isin(rows, dead) if len(dead) else is_row

    def markers_of(self, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Returns the places in `markers` of the commits of a set's rows."""
        return self._commits_of(columns["commit"][rows])[0]

    def commits_where(self, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[int]:
        """Returns the commits of some images, as places in `markers`.

        Args:
          wanted: given digests of keys, uint64 (n, 2), and kinds, uint8 (n,), returns bool (n,).
        """
        found: set[int] = set()
        for columns in self.sets:
            for start in range(0, len(columns["kind"]), BLOCK):
                rows = slice(start, start + BLOCK)
                keys = np.stack([columns["key"][rows], columns["key_rest"][rows]], axis=1)
                numbers = columns["commit"][rows][wanted(keys, columns["kind"][rows])]
                at, known = self._commits_of(np.unique(numbers))
                found.update(at[known].tolist())
        return sorted(found)

    def with_quarantine_in_shards(self) -> list[Marker]:
        """Returns the commits of shards with quarantined images that count."""
        found: set[int] = set()
        for columns, dead in zip(self.sets, self.dead, strict=True):
            rows = np.flatnonzero(columns["kind"] > IN_SHARD)
            at, known = self._commits_of(columns["commit"][rows[~np.isin(rows, dead)]])
            found.update(at[known].tolist())
        return [self.markers[number] for number in sorted(found)]

    def by_key(self, keys: np.ndarray, in_shards: bool = False) -> Held:
        """Finds what is stored under keys; of several rows, that of the newest run.

        Args:
          keys: digests, uint64 (n, 2).
          in_shards: whether images inside shards count too.
        """
        size = len(keys)
        run = np.full(size, -1, np.int64)
        uri, version, kind = (np.zeros(size, np.uint64) for _ in range(3))
        commit = np.zeros(size, np.int64)
        order = np.argsort(keys[:, 0])
        wanted = keys[order]
        for columns, dead in zip(self.sets, self.dead, strict=True):
            index, rows = matches(columns["key"], wanted[:, 0])
            keep = columns["key_rest"][rows] == wanted[index, 1]
            if not in_shards:
                keep &= columns["kind"][rows] < IN_SHARD
            if len(dead):
                keep &= ~np.isin(rows, dead)
            index, rows = order[index[keep]], rows[keep]
            own, _ = self._commits_of(columns["commit"][rows])
            runs = self._runs[own] if len(own) else own
            # The newest run last, so that it stays.
            last = np.argsort(runs, kind="stable")
            index, rows, own, runs = index[last], rows[last], own[last], runs[last]
            newer = runs >= run[index]
            index, rows = index[newer], rows[newer]
            run[index], commit[index] = runs[newer], own[newer]
            uri[index], version[index] = columns["uri"][rows], columns["version"][rows]
            kind[index] = columns["kind"][rows]
        return Held(run >= 0, uri, version, kind, commit)

    def has_places(self, uris: np.ndarray, file_versions: np.ndarray) -> np.ndarray:
        """Returns bool (n,): whether images with these addresses and versions are stored."""
        wanted = places(uris, file_versions)
        return self._counts("place", wanted, self._dead_places, ("place_uri", uris)) > 0

    def has_versions(self, file_versions: np.ndarray) -> np.ndarray:
        """Returns bool (n,): whether rows with this size and etag are stored."""
        return self._counts("row_version", file_versions, self._dead_versions) > 0

    def count_contents(self, contents: np.ndarray) -> np.ndarray:
        """Returns the number of rows with each content, int64 (n,)."""
        return self._counts("row_content", contents, self._dead_contents)

    def _counts(
        self,
        name: str,
        wanted: np.ndarray,
        dead: np.ndarray,
        also: tuple[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        counts = np.zeros(len(wanted), np.int64)
        order = np.argsort(wanted)
        ordered = wanted[order]
        for columns in self.sets:
            index, rows = matches(columns[name], ordered)
            if also:
                index = index[columns[also[0]][rows] == also[1][order[index]]]
            np.add.at(counts, order[index], 1)
        gone, _ = matches(dead, wanted)
        np.subtract.at(counts, gone, 1)
        return counts

    def extend(self, storage: Storage, run_id: str, space: str = "tmp") -> None:
        """Adds the commits that are in no set to the store's index, if there are many.

        Args:
          storage: of the store.
          run_id: of the run that has finished.
          space: folder of the store for unfinished files.
        """
        pairs = zip(self.stored, self.foreign, strict=True)
        whole = [each for each, foreign in pairs if not len(foreign)]
        fresh = self.sets[-1], self.fresh
        write_set(storage, f"{space}/{run_id}-index", fresh, whole, self.useless)

    def ledger(self, markers: Iterable[Marker]) -> Ledger:
        """Adds up the ledgers of commits, without superseded images."""
        rows = bad = 0
        for number, (columns, dead) in enumerate(zip(self.sets, self.dead, strict=True)):
            hidden = np.setdiff1d(dead, self._foreign_rows(number))
            kinds = columns["kind"][hidden] & 3
            rows += int(np.count_nonzero(kinds == ROW))
            bad += int(np.count_nonzero(kinds != ROW))
        whole = Ledger.total(marker.ledger for marker in markers)
        return whole + Ledger(images_in=-rows - bad, rows=-rows, quarantined=-bad)


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))
