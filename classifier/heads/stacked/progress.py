"""The progress of each head in training: history, best epoch, and whether it continues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass
class Progress:
    """The progress of one head.

    Attributes:
      patience: epochs without a lower validation loss after which it ends; 0 for never.
      history: metric name -> one value per epoch.
      best_epoch: counted from 1; 0 while the validation loss was never finite.
      ended: whether its training has ended.
    """

    patience: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METRICS})
    best_epoch: int = 0
    ended: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that it was trained for."""
        return len(self.history["loss"])

    @property
    def best_loss(self) -> float:
        """The lowest validation loss, infinity before the first."""
        return self.history["val_loss"][self.best_epoch - 1] if self.best_epoch else math.inf

    def add(self, figures: Sequence[float]) -> bool:
        """Takes in an epoch.

        Args:
          figures: in the order of `METRICS`.

        Returns:
          Whether its weights are the best so far.
        """
        lowest = self.best_loss
        for name, value in zip(METRICS, figures, strict=True):
            self.history[name].append(float(value))
        loss, val_loss = self.history["loss"][-1], self.history["val_loss"][-1]
        better = val_loss < lowest
        if better:
            self.best_epoch = self.epochs
        waited = self.epochs - self.best_epoch
        # Weights that are NaN stay NaN.
        self.ended = math.isnan(loss + val_loss) or bool(self.patience and waited >= self.patience)
        return better
