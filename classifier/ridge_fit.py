"""Fits a ridge head on one machine: three passes over blocks of rows, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from classifier.dataset import SIDES, Rows
from classifier.heads import Standard
from classifier.ridge import RidgePath
from classifier.ridge_passes import (
    Calibration,
    FoldStatistics,
    Judgement,
    RidgeSettings,
    Solved,
    solve,
)


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge head.

    Attributes:
      l2: the chosen penalty.
      path: its solution.
      standard: what features were standardised by, None for nothing.
      scale: makes scores into logits.
      metrics: loss, accuracy, val_loss, val_accuracy.
      penalties: accuracy and squared error by penalty.
    """

    l2: float
    path: RidgePath
    standard: Standard | None
    scale: float
    metrics: dict[str, float]
    penalties: dict[str, list[float]]


def fit_ridge(settings: RidgeSettings, rows: Callable[[str], Iterable[Rows]]) -> RidgeFit:
    """Fits in three passes over rows, in bounded memory.

    Args:
      settings: of the fit.
      rows: called with ``train`` or ``validation``, gives blocks of rows.
    """

    def blocks(side: str) -> Iterator[Rows]:
        return gathered(rows(side), settings.block_rows)

    statistics = FoldStatistics(settings)
    for block in blocks("train"):
        statistics.update(block)
    solved = solve(statistics)
    judgement = Judgement(settings)
    for side in SIDES if settings.folds else SIDES[1:]:
        for block in blocks(side):
            judgement.update(solved, block, side)
    path = solved.full.only(judgement.choose())
    calibration = Calibration(settings)
    for side in SIDES:
        for block in blocks(side):
            calibration.update(path, block, side)
    return finished(solved, judgement, calibration)


def finished(solved: Solved, judgement: Judgement, calibration: Calibration) -> RidgeFit:
    """Puts together what the passes found."""
    chosen = judgement.choose()
    scale, metrics = calibration.best()
    return RidgeFit(
        l2=judgement.settings.l2[chosen],
        path=solved.full.only(chosen),
        standard=solved.standard,
        scale=scale,
        metrics=metrics,
        penalties=judgement.to_record(),
    )


def gathered(blocks: Iterable[Rows], least: int) -> Iterator[Rows]:
    """Joins small blocks of rows into blocks of at least `least` rows, but for the last."""
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
