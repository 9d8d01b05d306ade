"""Hyperparameters of a training run, checked where they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from classifier.heads import HeadSpec, shortest
from featurestore.errors import UsageError, unknown_choice

OPTIMIZERS = ("rmsprop", "adam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")
STANDARDISE = ("channel", "none")


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters of a run; every head is trained once with every learning rate.

    Attributes:
      heads: to train.
      lr: learning rates.
      optimizer: ``rmsprop``, ``adam`` or ``sgd`` (with momentum 0.9).
      epochs: over the training rows.
      batch_size: rows per step.
      class_weight: ``balanced`` weighs each class inversely to its rows.
      l2: penalty on the squares of the kernels.
      standardise: ``channel`` subtracts each channel's mean and divides by its deviation.
      seed: of weights, dropout and order.
    """

    heads: tuple[HeadSpec, ...] = (HeadSpec(),)
    lr: tuple[float, ...] = (1e-3,)
    optimizer: str = "adam"
    epochs: int = 50
    batch_size: int = 64
    class_weight: str = "none"
    l2: float = 0.0
    standardise: str = "channel"
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value, choices in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--class_weight", self.class_weight, CLASS_WEIGHTS),
            ("--standardise", self.standardise, STANDARDISE),
        ):
            if value not in choices:
                raise unknown_choice(flag, value, choices)
        for flag, number in (("--epochs", self.epochs), ("--batch_size", self.batch_size)):
            if number < 1:
                raise UsageError(f"{flag} must be at least 1, got {number}")
        for rate in self.lr:
            if not 0 < rate < math.inf:
                raise UsageError(f"--lr must be above 0, got {rate}")
        if not 0 <= self.l2 < math.inf:
            raise UsageError(f"--l2 must be 0 or more, got {self.l2}")
        if not 0 <= self.seed < 1 << 31:
            raise UsageError(f"--seed must be from 0 to 2147483647, got {self.seed}")
        if not self.heads or not self.lr:
            raise UsageError("--head and --lr need at least one value each")

    def trials(self) -> dict[str, tuple[HeadSpec, float]]:
        """Returns head_id -> (head, learning rate), in the order given, without repetitions."""
        rates = dict.fromkeys(self.lr)
        return {
            f"{head.slug}-lr{shortest(rate)}" if len(rates) > 1 else head.slug: (head, rate)
            for head in dict.fromkeys(self.heads)
            for rate in rates
        }

    def to_record(self) -> dict[str, Any]:
        """Returns the options by their flag names, fit for JSON."""
        return {
            "head": [str(head) for head in self.heads],
            "lr": list(self.lr),
            **{
                name: getattr(self, name)
                for name in (
                    "optimizer",
                    "epochs",
                    "batch_size",
                    "class_weight",
                    "l2",
                    "standardise",
                    "seed",
                )
            },
        }
