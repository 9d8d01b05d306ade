"""Training of heads: the data they share, one head's fit, and the ranking.

History is of the pure cross entropy, without the L2 penalty and without class weights, so that
heads of different settings are comparable and an evaluation of the saved head repeats the best
epoch's figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from classifier.features.dataset import SIDES, epoch_batches, labelled_batches, load_rows, row_bytes
from classifier.features.division import Division
from classifier.features.order import Order, Rows
from classifier.features.selection import Selection
from classifier.heads.data import TrainedHead, TrainingData
from classifier.heads.head import Moments
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.stacked.fit import OnEpoch, StackedFit, fit_stacked, keras_head

if TYPE_CHECKING:
    from featurestore import FeatureStore


def prepare_data(
    store: FeatureStore,
    division: Division,
    options: TrainOptions,
) -> TrainingData:
    """Loads features once when they fit `options.memory`, and measures what heads standardise by.

    Args:
      store: to read.
      division: which rows train and validate.
      options: of the run.
    """
    classes = division.classes
    sides = (division.train, division.validation)
    stored = division.stored_rows, division.rows[1]
    in_memory = sum(stored) * row_bytes(store, classes, division.train) <= options.memory
    sources: list[FeatureStore | Rows] = [store, store]
    if in_memory:
        sources = [load_rows(store, classes, *pair) for pair in zip(sides, stored, strict=True)]

    def blocks(side: str) -> Iterator[Rows]:
        number = SIDES.index(side)
        return _blocks(sources[number], classes, sides[number])

    standard = None
    if options.standardise == "channel":
        moments = Moments(store.spec.feature_shape[-1])
        for block in blocks("train"):
            moments.update(block.features)
        standard = moments.standard()

    def train(seed: int, epoch: int) -> Iterator[Rows]:
        return epoch_batches(
            sources[0],
            classes,
            division.train,
            batch_size=options.batch_size,
            order=Order(seed, epoch, store.spec.views),
            pool_bytes=options.memory,
        )

    shape = store.spec.feature_shape
    return TrainingData(
        train, partial(blocks, "validation"), shape, standard, division, in_memory, blocks
    )


def _blocks(
    source: FeatureStore | Rows, classes: Sequence[str], selection: Selection
) -> Iterator[Rows]:
    if not isinstance(source, Rows):
        yield from labelled_batches(source, classes, selection)
        return
    for start in range(0, len(source.labels), 1024):
        yield source[start : start + 1024]


def train_head(
    trial: Trial,
    data: TrainingData,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
) -> TrainedHead:
    """Fits one head by gradient steps, at its best epoch.

    Args:
      trial: of the head.
      data: to fit on.
      options: of the run.
      on_epoch: as of `classifier.heads.stacked.fit.fit_stacked`.

    Raises:
      RunFailed: when the validation loss was never finite.
    """
    (fits,) = fit_stacked({"head": trial}, data, options, on_epoch)
    return trained_head(fits["head"], trial, data)


def trained_head(fit: StackedFit, trial: Trial, data: TrainingData) -> TrainedHead:
    """Returns a fit of a stack as a run keeps it.

    Raises:
      RunFailed: when the validation loss was never finite.
    """
    model = keras_head(fit, trial, data)
    rate = fit.rows_per_second
    return TrainedHead(model, fit.history, fit.best_epoch, fit.seconds, rate, trial.l2)


def leaderboard(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ranks heads by validation loss, lowest first; ties go to fewer parameters, then the name."""
    ranked = sorted(records, key=lambda r: (r["val_loss"], r["parameters"], r["head_id"]))
    return [{"rank": rank, **record} for rank, record in enumerate(ranked, 1)]
