"""A ridge fit as Beam steps: each pass sums over groups of the store's chunks.

What travels between the steps is small. The sums of the first pass go in tiles of some megabytes,
because runners fail, or hang, with larger elements. The solutions, which may be larger still, wait
in a file of the run. A pass awaits the one before by a grouping, and not by a side input: Dask
would compute that again for each element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import apache_beam as beam

from classifier.features.dataset import SIDES, labelled, row_columns
from classifier.features.division import Division
from classifier.features.order import Rows
from classifier.heads.ridge.fit import finished, gathered
from classifier.heads.ridge.passes import PenaltyErrors, ScaleLosses
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.solution import FoldStatistics, Key, Solved, solve
from classifier.heads.ridge.statistics import Statistics
from featurestore.io.storage import Storage
from featurestore.store import open_store
from pipelines.beam.run import on_worker

MOST_GROUPS = 4096
# Enough groups for some workers, however large their sums are.
LEAST_GROUPS = 16
# Of the tiles of all groups. Most runners add tiles up where they are made; Dask keeps them all.
TRAFFIC_BYTES = 2 << 30


@dataclass(frozen=True)
class RidgeSource:
    """Where the rows are, and where the fit goes.

    Attributes:
      store_url: address of the store.
      run_url: address of the run's folder.
      storage_options: for both file systems.
      division: which rows train and validate.
      moment: file of the run; names the commits and labels to read, see `Moment.to_json`.
      solved: file of the run; holds the solutions for every penalty.
      tap: to read, of a store of several; else "".
    """

    store_url: str
    run_url: str
    storage_options: Mapping[str, Any]
    division: Division
    moment: str
    solved: str
    tap: str = ""

    @property
    def run(self) -> Storage:
        """The run's folder."""
        return Storage(self.run_url, self.storage_options)

    def solution(self) -> Solved:
        """Reads the solutions."""
        return Solved.from_bytes(self.run.read(self.solved))


def group_of(chunk_id: str, groups: int) -> int:
    """Returns the number of a chunk's group; ids are hashes, so groups are of about one size.

    Example:
      >>> group_of("0000001c" + 24 * "0", 16)
      12
    """
    return int(chunk_id[:8], 16) % groups


def tile_groups(settings: RidgeSettings, chunks: int) -> int:
    """Returns how many groups the first pass makes, for a bounded amount of tiles.

    Example:
      >>> tile_groups(RidgeSettings(1280, 1280, 10, (1.0,)), 10**6)
      64
    """
    fitting = TRAFFIC_BYTES // settings.sum_bytes
    return min(max(LEAST_GROUPS, fitting), MOST_GROUPS, max(1, chunks))


class OverRows(beam.DoFn):
    """A sum over the rows of a group of chunks.

    Args:
      source: where the rows are.
      settings: of the fit.
      groups: how many groups the chunks make.
    """

    def __init__(self, source: RidgeSource, settings: RidgeSettings, groups: int) -> None:
        self._source, self._settings, self._groups = source, settings, groups

    def setup(self) -> None:
        source = self._source
        with on_worker():
            names = source.run.read(source.moment)
            store = open_store(source.store_url, source.storage_options, source.tap)
            store = store.at_moment(names)
        self._markers = store.markers()
        self._scanner = store.scanner(self._markers.values())
        self._solution: Solved | None = None

    def solved(self) -> Solved:
        """Returns the solutions, which are read once; only when the step before is done."""
        self._solution = self._solution or self._source.solution()
        return self._solution

    def blocks(self, group: int, side: str) -> Iterator[Rows]:
        """Reads the rows of a group, of one side, in blocks that are worth a matrix product."""
        division = self._source.division
        selection = division.train if side == "train" else division.validation
        own = [m for name, m in self._markers.items() if group_of(name, self._groups) == group]
        batches = selection.read(self._scanner, own, row_columns(selection))
        rows = labelled(batches, division.classes, selection)
        return gathered(rows, self._settings.block_rows)


class SumStatistics(OverRows):
    """Yields ((fold, first row), tile) of the statistics of a group's training rows."""

    def process(self, group: int) -> Iterator[tuple[Key, Statistics]]:
        statistics = FoldStatistics(self._settings)
        for rows in self.blocks(group, "train"):
            statistics.update(rows)
        yield from statistics.tiles()


class SumErrors(OverRows):
    """Yields the errors of each penalty over a group's rows, when the solutions are there."""

    def process(self, awaited: tuple[int, Any]) -> Iterator[PenaltyErrors]:
        group, _ = awaited
        errors = PenaltyErrors(self._settings)
        for side in SIDES if self._settings.folds else SIDES[1:]:
            for rows in self.blocks(group, side):
                errors.update(rows, side, self.solved())
        yield errors


class SumLosses(OverRows):
    """Yields (errors of all rows, losses of each scale over a group's rows).

    The losses are those of the penalty that has the least errors.
    """

    def process(
        self, awaited: tuple[int, Iterable[PenaltyErrors]]
    ) -> Iterator[tuple[PenaltyErrors, ScaleLosses]]:
        group, (errors, *_) = awaited
        losses, path = ScaleLosses(self._settings), self.solved().full.only(errors.choose())
        for side in SIDES:
            for rows in self.blocks(group, side):
                losses.update(rows, side, path)
        yield errors, losses


class FitRidge(beam.PTransform):
    """Reads a store three times and writes the fit as one file of the run.

    Args:
      source: where the rows are, and the run.
      settings: of the fit.
      chunks: how many the store has.
      file: to write, in the run.
    """

    def __init__(
        self, source: RidgeSource, settings: RidgeSettings, chunks: int, file: str
    ) -> None:
        super().__init__()
        self._source, self._settings = source, settings
        self._chunks, self._file = chunks, file

    def expand(self, pipeline: Any) -> Any:
        source, settings = self._source, self._settings
        groups = min(max(1, self._chunks), MOST_GROUPS)
        tiling = tile_groups(settings, self._chunks)
        solved = (
            pipeline
            | "Name groups" >> beam.Create(range(tiling))
            | "Spread groups" >> beam.Reshuffle()
            # number of a group
            | "Sum statistics" >> beam.ParDo(SumStatistics(source, settings, tiling))
            # ((fold, first row), tile)
            | "Merge tiles" >> beam.CombinePerKey(AddStatistics())
            | "Await tiles" >> Together()
            | "Solve" >> beam.Map(_solve, source, settings)
            # None, when the file of solutions is there
        )
        errors = (
            solved
            | "Spread errors" >> Again(groups)
            # (number of a group, [None])
            | "Sum errors" >> beam.ParDo(SumErrors(source, settings, groups))
            | "Await errors" >> Together()
            | "Merge errors" >> beam.Map(_added)
            # PenaltyErrors of all rows
        )
        return (
            errors
            | "Spread losses" >> Again(groups)
            # (number of a group, [PenaltyErrors])
            | "Sum losses" >> beam.ParDo(SumLosses(source, settings, groups))
            # (PenaltyErrors, ScaleLosses)
            | "Await losses" >> Together()
            | "Write fit" >> beam.Map(_write, source, self._file)
        )


class Together(beam.PTransform):
    """Elements -> one list of them all."""

    def expand(self, elements: Any) -> Any:
        return (
            elements
            | "Key" >> beam.Map(lambda element: ("", element))
            | "Await" >> beam.GroupByKey()
            | "Drop key" >> beam.Map(lambda keyed: keyed[1])
        )


class Again(beam.PTransform):
    """One element -> (number of a group, [the element]) for all groups, spread over the workers.

    Args:
      groups: how many groups there are.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self._groups = groups

    def expand(self, element: Any) -> Any:
        groups = self._groups
        return (
            element
            | "Name groups" >> beam.FlatMap(lambda given: ((n, given) for n in range(groups)))
            # A grouping spreads on Dask too, where a Reshuffle does not.
            | "Spread" >> beam.GroupByKey()
        )


class AddStatistics(beam.CombineFn):
    """Adds tiles of one key."""

    def create_accumulator(self) -> Statistics | None:
        return None

    def add_input(self, total: Statistics | None, tile: Statistics) -> Statistics:
        return tile if total is None else total + tile

    def merge_accumulators(self, totals: Iterable[Statistics | None]) -> Statistics | None:
        some = [total for total in totals if total is not None]
        return reduce(add, some) if some else None

    def extract_output(self, total: Statistics | None) -> Statistics | None:
        return total


def _solve(
    tiles: Iterable[tuple[Key, Statistics]], source: RidgeSource, settings: RidgeSettings
) -> None:
    statistics = FoldStatistics.joined(settings, tiles)
    source.run.write(source.solved, solve(statistics).to_bytes())


def _added(sums: Iterable[PenaltyErrors]) -> PenaltyErrors:
    return reduce(add, sums)


def _write(
    results: Iterable[tuple[PenaltyErrors, ScaleLosses]], source: RidgeSource, file: str
) -> None:
    results = iter(results)
    errors, losses = next(results)
    for _, more in results:
        losses = losses + more
    source.run.write(file, finished(source.solution(), errors, losses).to_bytes())
