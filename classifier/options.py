"""Hyperparameters of a training run, checked where they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from classifier.exactspec import ExactSpec
from classifier.heads import HeadSpec, shortest
from featurestore.cache import parse_size
from featurestore.errors import UsageError, unknown_choice

OPTIMIZERS = ("rmsprop", "adam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")
STANDARDISE = ("channel", "none")
DEFAULT_MEMORY = "1GB"


class Trial(NamedTuple):
    """One fit of a head.

    Attributes:
      head: what it is made of.
      lr: learning rate; None for an exact head.
      l2: penalty; None for an exact head, which chooses its own.
    """

    head: HeadSpec | ExactSpec
    lr: float | None = None
    l2: float | None = None


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters of a run.

    Every head that is trained by gradient steps meets every learning rate and every penalty; an
    exact head is fitted once, and chooses among the penalties.

    Attributes:
      heads: to train.
      lr: learning rates.
      optimizer: ``rmsprop``, ``adam`` or ``sgd`` (with momentum 0.9).
      epochs: over the training rows.
      batch_size: rows per step.
      class_weight: ``balanced`` weighs each class inversely to its rows.
      l2: penalties on the squares of the kernels; none means 0, and for exact heads their own.
      folds: of the cross-validation that chooses a ridge head's penalty; 0 for none.
      standardise: ``channel`` subtracts each channel's mean and divides by its deviation.
      seed: of weights, dropout and order.
      memory: bytes that features may take before they are streamed.
    """

    heads: tuple[HeadSpec | ExactSpec, ...] = (HeadSpec(),)
    lr: tuple[float, ...] = (1e-3,)
    optimizer: str = "adam"
    epochs: int = 50
    batch_size: int = 64
    class_weight: str = "none"
    l2: tuple[float, ...] = ()
    folds: int = 5
    standardise: str = "channel"
    seed: int = 0
    memory: int = parse_size(DEFAULT_MEMORY, "--memory")

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
        if self.memory < 1:
            raise UsageError(f"--memory must be above 0, got {self.memory}; such as 500MB")
        for rate in self.lr:
            if not 0 < rate < math.inf:
                raise UsageError(f"--lr must be above 0, got {rate}")
        self._check_penalties()
        if not 0 <= self.seed < 1 << 31:
            raise UsageError(f"--seed must be from 0 to 2147483647, got {self.seed}")
        if not self.heads or not self.lr:
            raise UsageError("--head and --lr need at least one value each")

    def _check_penalties(self) -> None:
        for penalty in self.l2:
            if not 0 <= penalty < math.inf:
                raise UsageError(f"--l2 must be 0 or more, got {penalty}")
        if self.folds != 0 and not 2 <= self.folds <= 100:
            raise UsageError(
                "--folds must be from 2 to 100, or 0 to let the validation rows choose, got "
                f"{self.folds}"
            )

    def trials(self) -> dict[str, Trial]:
        """Returns head_id -> trial, in the order given, without repetitions."""
        rates, penalties = dict.fromkeys(self.lr), dict.fromkeys(self.l2 or (0.0,))
        found = {}
        for head in dict.fromkeys(self.heads):
            if isinstance(head, ExactSpec):
                found[head.slug] = Trial(head)
                continue
            for rate in rates:
                for penalty in penalties:
                    name = head.slug
                    name += f"-lr{shortest(rate)}" if len(rates) > 1 else ""
                    name += f"-l2{shortest(penalty)}" if len(penalties) > 1 else ""
                    found[name] = Trial(head, rate, penalty)
        return found

    def to_record(self) -> dict[str, Any]:
        """Returns the options by their flag names, fit for JSON."""
        return {
            "head": [str(head) for head in self.heads],
            "lr": list(self.lr),
            "l2": list(self.l2),
            **{
                name: getattr(self, name)
                for name in (
                    "optimizer",
                    "epochs",
                    "batch_size",
                    "class_weight",
                    "folds",
                    "standardise",
                    "seed",
                    "memory",
                )
            },
        }
