"""A ridge fit as Beam steps: each pass sums over the store's chunks and merges the sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from classifier.features.dataset import SIDES, labelled, row_columns
from classifier.features.division import Division
from classifier.features.order import Rows
from classifier.heads.ridge.fit import finished, gathered
from classifier.heads.ridge.passes import (
    FoldStatistics,
    PenaltyErrors,
    RidgeSettings,
    ScaleLosses,
    Solved,
    solve,
)
from classifier.heads.ridge.statistics import RidgePath
from featurestore.io.storage import Storage
from featurestore.store import open_store

# Chunk ids are uniform hexadecimal digits. A reference has at most this many of the first ones.
MOST_DIGITS = 3


@dataclass(frozen=True)
class RidgeSource:
    """Where the rows are, and where the fit goes.

    Attributes:
      store_url: address of the store.
      run_url: address of the run's folder.
      storage_options: for both file systems.
      division: which rows train and validate.
      moment: file of the run; names the commits and labels to read, see `Moment.to_json`.
    """

    store_url: str
    run_url: str
    storage_options: Mapping[str, Any]
    division: Division
    moment: str


def references(chunks: int) -> list[str]:
    """Names groups of chunks by the first digits of their ids, enough of them to spread the work.

    Example:
      >>> references(1), len(references(17)), len(references(10**9))
      ([''], 256, 4096)
    """
    digits = 0
    while 16**digits < chunks and digits < MOST_DIGITS:
        digits += 1
    return [f"{number:0{digits}x}" if digits else "" for number in range(16**digits)]


class SumRows(beam.DoFn):
    """Sums over the rows of some chunks; yields one sum per bundle.

    Args:
      source: where the rows are.
      settings: of the fit.
      kind: of the sum.
      sides: to read, of ``train`` and ``validation``.
    """

    def __init__(
        self, source: RidgeSource, settings: RidgeSettings, kind: type, sides: Sequence[str]
    ) -> None:
        self._source, self._settings, self._kind = source, settings, kind
        self._sides = sides

    def setup(self) -> None:
        source = self._source
        names = Storage(source.run_url, source.storage_options).read(source.moment)
        store = open_store(source.store_url, source.storage_options).at_moment(names)
        self._markers = store.markers()
        self._scanner = store.scanner(self._markers.values())

    def start_bundle(self) -> None:
        self._sum: Any = None

    def process(self, prefix: str, given: Solved | RidgePath | None = None) -> None:
        if self._sum is None:
            self._sum = self._kind(self._settings)
        for side in self._sides:
            for rows in gathered(self._rows(prefix, side), self._settings.block_rows):
                self._sum.update(rows, *(() if given is None else (side, given)))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._sum is not None:
            window = GlobalWindow()
            yield WindowedValue(self._sum, window.max_timestamp(), (window,))

    def _rows(self, prefix: str, side: str) -> Iterator[Rows]:
        division = self._source.division
        selection = division.train if side == "train" else division.validation
        markers = [marker for name, marker in self._markers.items() if name.startswith(prefix)]
        batches = selection.read(self._scanner, markers, row_columns(selection))
        return labelled(batches, division.classes, selection)


class Merge(beam.CombineFn):
    """Merges sums of one kind."""

    def create_accumulator(self) -> Any:
        return None

    def add_input(self, total: Any, part: Any) -> Any:
        if total is None:
            return part
        total.merge(part)
        return total

    def merge_accumulators(self, totals: Iterable[Any]) -> Any:
        merged = None
        for total in totals:
            if total is not None:
                merged = self.add_input(merged, total)
        return merged

    def extract_output(self, total: Any) -> Any:
        return total


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
        groups = (
            pipeline
            | "Name groups" >> beam.Create(references(self._chunks))
            # first digits of chunk ids
            | "Spread groups" >> beam.Reshuffle()
        )
        solved = self._sum(groups, FoldStatistics, SIDES[:1]) | "Solve" >> beam.Map(solve)
        # Solved
        sides = SIDES if self._settings.folds else SIDES[1:]
        errors = self._sum(groups, PenaltyErrors, sides, AsSingleton(solved))
        # PenaltyErrors
        path = errors | "Choose penalty" >> beam.Map(_chosen, AsSingleton(solved))
        # RidgePath of one penalty
        return (
            self._sum(groups, ScaleLosses, SIDES, AsSingleton(path))
            # ScaleLosses
            | "Write fit"
            >> beam.Map(_write, AsSingleton(solved), AsSingleton(errors), self._source, self._file)
        )

    def _sum(self, groups: Any, kind: type, sides: Sequence[str], *given: Any) -> Any:
        step = SumRows(self._source, self._settings, kind, sides)
        return (
            groups
            | f"Sum {kind.__name__}" >> beam.ParDo(step, *given)
            | f"Merge {kind.__name__}" >> beam.CombineGlobally(Merge())
        )


def _chosen(errors: PenaltyErrors, solved: Solved) -> RidgePath:
    return solved.full.only(errors.choose())


def _write(
    losses: ScaleLosses, solved: Solved, errors: PenaltyErrors, source: RidgeSource, file: str
) -> None:
    fit = finished(solved, errors, losses)
    Storage(source.run_url, source.storage_options).write(file, fit.to_bytes())
