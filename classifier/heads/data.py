"""What heads are fitted on, and what a fit gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from classifier.features.division import Division
from classifier.features.order import Rows
from classifier.heads.head import Standard

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainingData:
    """What every head of a run is fitted on.

    Attributes:
      train: called with the seed of the order and the epoch, counted from 0: gives its batches.
      validation: gives batches in stored order.
      feature_shape: of one row.
      standard: statistics of the training rows, None for none.
      division: which rows these are.
      in_memory: whether features were loaded once or are streamed every epoch.
      rows: called with ``train`` or ``validation``, gives blocks of rows in stored order.
    """

    train: Callable[[int, int], Iterator[Rows]]
    validation: Callable[[], Iterator[Rows]]
    feature_shape: tuple[int, ...]
    standard: Standard | None
    division: Division
    in_memory: bool
    rows: Callable[[str], Iterator[Rows]]


@dataclass(frozen=True)
class TrainedHead:
    """A fitted head at its best epoch.

    Attributes:
      model: features -> probabilities, with the best epoch's weights.
      history: metric name -> one value an epoch.
      best_epoch: counted from 1.
      seconds: the fit took.
      rows_per_second: training rows through the fit, all epochs.
      l2: its penalty; None for a head without.
      penalties: of an exact head: figures by penalty, else empty.
    """

    model: keras.Model
    history: Mapping[str, Sequence[float]]
    best_epoch: int
    seconds: float
    rows_per_second: float
    l2: float | None = None
    penalties: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, float]:
        """Each metric at the best epoch."""
        return {name: values[self.best_epoch - 1] for name, values in self.history.items()}
