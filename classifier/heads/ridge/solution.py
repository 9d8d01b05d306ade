"""The first pass of a ridge fit: sums fold by fold, and the solutions that follow from them."""

from __future__ import annotations

import io
import operator
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np

from classifier.features.order import Rows, flattened
from classifier.heads.head import Standard
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.statistics import RidgePath, Statistics, fit_path

# Of what one worker sends to another at once. Flink fails, or hangs, with elements of 65 MB.
TILE_BYTES = 4_000_000
# Fold and first row of a tile.
Key = tuple[int, int]


class FoldStatistics:
    """The statistics of training rows, fold by fold.

    Args:
      settings: of the fit.
    """

    def __init__(self, settings: RidgeSettings) -> None:
        self.settings = settings
        none = Statistics.empty(settings.features, settings.targets)
        self.folds = [none] * max(settings.folds, 1)

    def update(self, rows: Rows) -> None:
        """Takes in training rows."""
        settings = self.settings
        features, targets = flattened(rows.features), settings.targets_of(rows.labels)
        weights = None
        if settings.class_weights is not None:
            weights = np.asarray(settings.class_weights)[rows.labels]
        numbers = settings.fold_numbers(rows)
        for fold in np.unique(numbers):
            own = numbers == fold
            shares = None if weights is None else weights[own]
            self.folds[fold] += Statistics.of(features[own], targets[own], shares)

    def tiles(self) -> Iterator[tuple[Key, Statistics]]:
        """Yields ((fold, first row), tile), each of at most `TILE_BYTES`; none of empty folds."""
        for fold, statistics in enumerate(self.folds):
            if statistics.weight:
                for tile in statistics.tiles(TILE_BYTES):
                    yield (fold, tile.first), tile

    @classmethod
    def joined(
        cls, settings: RidgeSettings, tiles: Iterable[tuple[Key, Statistics]]
    ) -> FoldStatistics:
        """Returns the statistics that `tiles` split, in any order; each tile may come only once."""
        whole = cls(settings)
        by_fold: dict[int, list[Statistics]] = {}
        for (fold, _), tile in tiles:
            by_fold.setdefault(fold, []).append(tile)
        for fold, own in by_fold.items():
            whole.folds[fold] = Statistics.joined(own)
        return whole


@dataclass(frozen=True)
class Solved:
    """Solutions for every penalty.

    Attributes:
      full: of all training rows.
      held_out: of the training rows without each fold; empty without folds.
      standard: what the features of `full` were standardised by.
    """

    full: RidgePath
    held_out: tuple[RidgePath, ...]
    standard: Standard | None

    def to_bytes(self) -> bytes:
        """Returns the solutions as an NPZ file, without pickle."""
        arrays = {"paths": np.array(1 + len(self.held_out)), **standard_arrays(self.standard)}
        for number, path in enumerate((self.full, *self.held_out)):
            arrays |= path_arrays(path, str(number))
        return npz_bytes(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Solved:
        """Reads what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            full, *held_out = (path_in(file, str(n)) for n in range(int(file["paths"])))
            return cls(full, tuple(held_out), standard_in(file))


def solve(statistics: FoldStatistics) -> Solved:
    """Solves for every penalty, with all rows and without each fold."""
    from threadpoolctl import threadpool_limits

    settings = statistics.settings
    total = reduce(operator.add, statistics.folds)

    def path(part: Statistics) -> RidgePath:
        return fit_path(part, settings.l2, settings.standard(part))

    left_out = statistics.folds if settings.folds else ()
    # BLAS's own threads wait for each other by spinning, and on a busy machine that made an
    # eigendecomposition ten times slower. Whole problems side by side do not wait for each other.
    with threadpool_limits(1), ThreadPoolExecutor(settings.lanes) as lanes:
        full = lanes.submit(path, total)
        held_out = tuple(lanes.map(lambda fold: path(total - fold), left_out))
    return Solved(full.result(), held_out, settings.standard(total))


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns arrays as an NPZ file."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


def path_arrays(path: RidgePath, suffix: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of solutions by the names that `path_in` reads."""
    return {
        f"mean{suffix}": path.mean,
        f"target_mean{suffix}": path.target_mean,
        f"weights{suffix}": path.weights,
    }


def path_in(file: Mapping[str, np.ndarray], suffix: str = "") -> RidgePath:
    """Reads the solutions that `path_arrays` named."""
    return RidgePath(*(file[f"{name}{suffix}"] for name in ("mean", "target_mean", "weights")))


def standard_arrays(standard: Standard | None) -> dict[str, np.ndarray]:
    """Returns what features are standardised by, by the names that `standard_in` reads."""
    return {} if standard is None else {"centre": standard.mean, "deviation": standard.deviation}


def standard_in(file: Mapping[str, np.ndarray]) -> Standard | None:
    """Reads what `standard_arrays` named."""
    return Standard(file["centre"], file["deviation"]) if "centre" in file else None
