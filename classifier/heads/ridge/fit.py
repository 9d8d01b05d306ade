"""Fits a ridge head on one machine: three passes over blocks of rows, in bounded memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from classifier.features.dataset import SIDES
from classifier.features.order import Rows
from classifier.heads.head import Standard
from classifier.heads.ridge.passes import PenaltyErrors, ScaleLosses
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.solution import (
    FoldStatistics,
    Solved,
    npz_bytes,
    path_arrays,
    path_in,
    solve,
    standard_arrays,
    standard_in,
)
from classifier.heads.ridge.statistics import RidgePath


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge head.

    Attributes:
      l2: the chosen penalty.
      path: its solution.
      standard: what features were standardised by, or None.
      scale: turns scores into logits.
      metrics: loss, accuracy, val_loss, val_accuracy.
      penalties: accuracy and squared error by penalty.
    """

    l2: float
    path: RidgePath
    standard: Standard | None
    scale: float
    metrics: dict[str, float]
    penalties: dict[str, list[float]]

    def to_bytes(self) -> bytes:
        """Returns the fit as an NPZ file, without pickle."""
        facts = json.dumps([self.l2, self.scale, self.metrics, self.penalties])
        arrays = {"facts": np.array(facts), **path_arrays(self.path)}
        return npz_bytes(arrays | standard_arrays(self.standard))

    @classmethod
    def from_bytes(cls, data: bytes) -> RidgeFit:
        """Reads what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            path, standard = path_in(file), standard_in(file)
            l2, scale, metrics, penalties = json.loads(str(file["facts"]))
        return cls(l2, path, standard, scale, metrics, penalties)


def fit_ridge(settings: RidgeSettings, rows: Callable[[str], Iterable[Rows]]) -> RidgeFit:
    """Fits in three passes over rows, in bounded memory.

    Args:
      settings: of the fit.
      rows: takes ``train`` or ``validation``; returns blocks of rows.
    """

    def blocks(side: str) -> Iterator[Rows]:
        return gathered(rows(side), settings.block_rows)

    statistics = FoldStatistics(settings)
    for block in blocks("train"):
        statistics.update(block)
    solved = solve(statistics)
    errors = PenaltyErrors(settings)
    for side in SIDES if settings.folds else SIDES[1:]:
        for block in blocks(side):
            errors.update(block, side, solved)
    path = solved.full.only(errors.choose())
    losses = ScaleLosses(settings)
    for side in SIDES:
        for block in blocks(side):
            losses.update(block, side, path)
    return finished(solved, errors, losses)


def finished(solved: Solved, errors: PenaltyErrors, losses: ScaleLosses) -> RidgeFit:
    """Returns the fit that the passes found."""
    chosen = errors.choose()
    scale, metrics = losses.best()
    return RidgeFit(
        l2=errors.settings.l2[chosen],
        path=solved.full.only(chosen),
        standard=solved.standard,
        scale=scale,
        metrics=metrics,
        penalties=errors.to_record(),
    )


def gathered(blocks: Iterable[Rows], least: int) -> Iterator[Rows]:
    """Joins small blocks of rows into blocks of at least `least` rows; the last may be smaller."""
    held: list[Rows] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block.labels)
        if count >= least:
            yield Rows.joined(held)
            held, count = [], 0
    if held:
        yield Rows.joined(held)
