"""What heads are fitted on, and what a fit gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from classifier.features.dataset import SIDES, epoch_batches, labelled_batches, load_rows, row_bytes
from classifier.features.division import Division
from classifier.features.order import Order, Rows
from classifier.heads.head import Moments, Standard
from classifier.heads.headgraph import HeadGraph
from classifier.heads.options import TrainOptions

if TYPE_CHECKING:
    import keras

    from featurestore import FeatureStore

# Blocks of rows are converted to float32, and their moments are computed in float64.
BLOCK_ROWS, BLOCK_BYTES = 1024, 64 << 20


@dataclass(frozen=True)
class TrainingData:
    """What every head of a run is fitted on.

    Attributes:
      train: returns the batches of an epoch; takes the seed of the order, and the epoch from 0 on.
      validation: returns batches in stored order.
      feature_shape: of one row.
      standard: statistics of the training rows, or None.
      division: which rows these are.
      in_memory: whether features were loaded once, or are streamed every epoch.
      rows: takes ``train`` or ``validation``; returns blocks of rows in stored order.
      is_pixels: whether the features are pixels.
    """

    train: Callable[[int, int], Iterator[Rows]]
    validation: Callable[[], Iterable[Rows]]
    feature_shape: tuple[int, ...]
    standard: Standard | None
    division: Division
    in_memory: bool
    rows: Callable[[str], Iterable[Rows]]
    is_pixels: bool = False


def prepare_data(store: FeatureStore, division: Division, options: TrainOptions) -> TrainingData:
    """Loads features once if they fit `options.memory`, and computes what heads standardise by.

    Args:
      store: to read.
      division: which rows train and validate.
      options: hyperparameters of the run.
    """
    classes, shape = division.classes, store.spec.feature_shape
    selections = (division.train, division.validation)
    stored = division.stored_rows, division.rows[1]
    in_memory = sum(stored) * row_bytes(store, classes, division.train) <= options.memory
    sources: list[FeatureStore | Rows] = [store, store]
    if in_memory:
        pairs = zip(selections, stored, strict=True)
        sources = [load_rows(store, classes, selection, rows) for selection, rows in pairs]

    size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * store.spec.feature_size)))

    def blocks(side: str) -> Iterable[Rows]:
        number = SIDES.index(side)
        source = sources[number]
        if isinstance(source, Rows):
            starts = range(0, len(source.labels), size)
            return (source[start : start + size] for start in starts)
        return labelled_batches(source, classes, selections[number], size)

    standard = None
    # Networks divide pixels by 255 instead, so their statistics are not needed.
    is_needed = not (store.spec.is_pixels and all(head.is_network for head in options.heads))
    if options.standardise == "channel" and is_needed:
        moments = Moments(shape[-1])
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

    validation = partial(blocks, "validation")
    return TrainingData(
        train, validation, shape, standard, division, in_memory, blocks, store.spec.is_pixels
    )


@dataclass(frozen=True)
class Fit:
    """What is known of every fitted head.

    Attributes:
      history: metric name -> one value per epoch.
      best_epoch: counted from 1; 0 if the validation loss was never finite.
      seconds: duration of the fit; a head's share, where several were fitted together.
      rows_per_second: training rows through the head in that time, all epochs.
    """

    history: Mapping[str, Sequence[float]]
    best_epoch: int
    seconds: float
    rows_per_second: float

    @property
    def best(self) -> dict[str, float]:
        """Each metric at the best epoch."""
        return {name: values[self.best_epoch - 1] for name, values in self.history.items()}


@dataclass(frozen=True)
class TrainedHead(Fit):
    """A head to save: at its best epoch.

    Attributes:
      model: features -> probabilities, with the weights of the best epoch; a Keras model if a
        convolution is in it.
      l2: its penalty; None for a head without one.
      penalties: figures by penalty of an exact head; empty for others.
    """

    model: HeadGraph | keras.Model
    l2: float | None = None
    penalties: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers it learned."""
        if isinstance(self.model, HeadGraph):
            return self.model.parameters
        return sum(math.prod(weight.shape) for weight in self.model.trainable_weights)
