"""Hyperparameters of a training run, checked where they are made."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from classifier.heads.exactspec import ExactSpec
from classifier.heads.head import HeadSpec
from featurestore.errors import UsageError, unknown_choice
from featurestore.units import parse_size, shortest

OPTIMIZERS = ("rmsprop", "adam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")
STANDARDISE = ("channel", "none")
MULTI_LABEL = ("auto", "on", "off")
MOST_HEADS = 10_000
DEFAULT_MEMORY = "1GB"


class Trial(NamedTuple):
    """One fit of a head.

    Attributes:
      head: what it is made of.
      lr: learning rate; None for an exact head.
      l2: penalty; None for an exact head, which chooses its own.
      optimizer: of `OPTIMIZERS`.
      seed: of its initial weights and its dropout.
      label_smoothing: how much of a row's target is spread over all classes.
    """

    head: HeadSpec | ExactSpec
    lr: float | None = None
    l2: float | None = None
    optimizer: str = "adam"
    seed: int = 0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters of a run.

    Every head that is trained by gradient steps meets every combination of learning rate, penalty,
    dropout, optimizer, seed and label smoothing; an exact head is fitted once, and chooses among
    penalties of its own.

    Attributes:
      heads: to train.
      lr: learning rates.
      optimizer: ``rmsprop``, ``adam`` or ``sgd`` (with momentum 0.9), as many as wanted.
      epochs: over the training rows.
      batch_size: rows per step.
      class_weight: ``balanced`` weighs each class inversely to its rows.
      l2: penalties on the squares of the kernels; none means 0. See `penalties_of` for exact heads.
      folds: of the cross-validation that chooses a ridge head's penalty; 0 for none.
      standardise: ``channel`` subtracts each channel's mean and divides by its deviation.
      seed: of weights and dropout, one a head; the first is that of the order of the rows, too.
      dropout: of every mlp head instead of its own; none leaves them.
      label_smoothing: how much of a row's target is spread over all classes.
      patience: epochs without a lower validation loss after which a head ends; 0 for none.
      keep: of the heads trained by gradient steps, how many of the best are saved.
      multi_label: whether rows may have several labels: ``on``, ``off``, or ``auto``, by the rows.
      memory: bytes that features may take before they are streamed.
    """

    heads: tuple[HeadSpec | ExactSpec, ...] = (HeadSpec(),)
    lr: tuple[float, ...] = (1e-3,)
    optimizer: tuple[str, ...] = ("adam",)
    epochs: int = 50
    batch_size: int = 64
    class_weight: str = "none"
    l2: tuple[float, ...] = ()
    folds: int = 5
    standardise: str = "channel"
    seed: tuple[int, ...] = (0,)
    dropout: tuple[float, ...] = ()
    label_smoothing: tuple[float, ...] = (0.0,)
    patience: int = 0
    keep: int = 10
    multi_label: str = "auto"
    memory: int = parse_size(DEFAULT_MEMORY, "--memory")

    def __post_init__(self) -> None:
        if not (self.heads and self.lr and self.optimizer and self.seed and self.label_smoothing):
            raise UsageError(
                "--head, --lr, --optimizer, --seed and --label_smoothing need at least one value "
                "each"
            )
        for flag, values, choices in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--class_weight", (self.class_weight,), CLASS_WEIGHTS),
            ("--standardise", (self.standardise,), STANDARDISE),
            ("--multi_label", (self.multi_label,), MULTI_LABEL),
        ):
            for value in values:
                if value not in choices:
                    raise unknown_choice(flag, value, choices)
        for flag, number, least in (
            ("--epochs", self.epochs, 1),
            ("--batch_size", self.batch_size, 1),
            ("--keep", self.keep, 1),
            ("--patience", self.patience, 0),
        ):
            if number < least:
                raise UsageError(f"{flag} must be at least {least}, got {number}")
        if self.memory < 1:
            raise UsageError(f"--memory must be above 0, got {self.memory}; such as 500MB")
        self._check_numbers()
        self._check_count()

    def _check_numbers(self) -> None:
        for rate in self.lr:
            if not 0 < rate < math.inf:
                raise UsageError(f"--lr must be above 0, got {rate}")
        for penalty in self.l2:
            if not 0 <= penalty < math.inf:
                raise UsageError(f"--l2 must be 0 or more, got {penalty}")
        for flag, fractions in (
            ("--dropout", self.dropout),
            ("--label_smoothing", self.label_smoothing),
        ):
            for fraction in fractions:
                if not 0 <= fraction < 1:
                    raise UsageError(f"{flag} must be from 0 to below 1, got {fraction}")
        self._check_seeds()

    def _check_seeds(self) -> None:
        for seed in self.seed:
            if not 0 <= seed < 1 << 31:
                raise UsageError(f"--seed must be from 0 to 2147483647, got {seed}")
        if self.folds != 0 and not 2 <= self.folds <= 100:
            raise UsageError(
                "--folds must be from 2 to 100, or 0 to let the validation rows choose, got "
                f"{self.folds}"
            )

    def _check_count(self) -> None:
        lists = (self.heads, self.dropout or (0.0,), *self._axes().values())
        count = math.prod(len(set(values)) for values in lists)
        if count > MOST_HEADS:
            raise UsageError(
                f"a run trains at most {MOST_HEADS:,} heads, these values make {count:,}; give "
                "fewer, or divide them into runs"
            )

    def _axes(self) -> dict[str, tuple]:
        """Returns what is combined with every head: field of `Trial` -> values, none twice."""
        values = {
            "lr": self.lr,
            "l2": self.l2 or (0.0,),
            "optimizer": self.optimizer,
            "seed": self.seed,
            "label_smoothing": self.label_smoothing,
        }
        return {name: tuple(dict.fromkeys(found)) for name, found in values.items()}

    def trials(self) -> dict[str, Trial]:
        """Returns head_id -> trial, in the order given, without repetitions.

        A head's id is its spelling and what varies in the run, so that it is short and tells heads
        apart.

        Example:
          >>> list(TrainOptions(lr=(0.1, 0.01), seed=(1, 2)).trials())
          ['linear-lr0.1-seed1', 'linear-lr0.1-seed2', 'linear-lr0.01-seed1', 'linear-lr0.01-seed2']
        """
        axes = self._axes()
        found: dict[str, Trial] = {}
        for head in self._heads():
            if isinstance(head, ExactSpec):
                found[head.slug] = Trial(head)
                continue
            for values in itertools.product(*axes.values()):
                settings = dict(zip(axes, values, strict=True))
                parts = [
                    _named(name, value) for name, value in settings.items() if len(axes[name]) > 1
                ]
                found["-".join([head.slug, *parts])] = Trial(head, **settings)
        return found

    def penalties_of(self, head: ExactSpec) -> tuple[float, ...]:
        """Returns the penalties that an exact head chooses from; none for ``knn``.

        Those of `l2` are for heads trained by gradient steps: the few that suit them are a poor
        choice for a solver that tries dozens. They are its own only where a run has no others.

        Example:
          >>> ridge = ExactSpec("ridge")
          >>> TrainOptions((ridge,), l2=(0.1,)).penalties_of(ridge)
          (0.1,)
          >>> len(TrainOptions((ridge, HeadSpec()), l2=(0.1,)).penalties_of(ridge))
          50
        """
        if head.kind == "knn":
            return ()
        is_shared = all(isinstance(other, ExactSpec) for other in self.heads)
        return head.l2 or (self.l2 if is_shared else ()) or head.penalties

    def _heads(self) -> list[HeadSpec | ExactSpec]:
        """Returns the heads, each mlp head with every dropout."""
        heads: dict[HeadSpec | ExactSpec, None] = {}
        for head in self.heads:
            if self.dropout and isinstance(head, HeadSpec) and head.units:
                heads |= {replace(head, dropout=rate): None for rate in self.dropout}
            else:
                heads[head] = None
        return list(heads)

    def to_record(self) -> dict[str, Any]:
        """Returns the options by their flag names, fit for JSON."""
        record: dict[str, Any] = {"head": [str(head) for head in self.heads]}
        for part in fields(self):
            if part.name != "heads":
                value = getattr(self, part.name)
                record[part.name] = list(value) if isinstance(value, tuple) else value
        return record


def _named(name: str, value: float | str) -> str:
    """Returns a setting as a part of a head's id."""
    if isinstance(value, str):
        return value
    prefix = {"label_smoothing": "smooth"}.get(name, name)
    return f"{prefix}{value if isinstance(value, int) else shortest(value)}"
