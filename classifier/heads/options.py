"""The hyperparameters of a training run, and the trials that they make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from classifier.features.division import VALIDATION, class_weights
from classifier.heads.spec import PENALTIES, HeadSpec
from featurestore.errors import UsageError, unknown_choice
from featurestore.units import parse_size, shortest

OPTIMIZERS = ("rmsprop", "adam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")
STANDARDISE = ("channel", "none")
MULTI_LABEL = ("auto", "on", "off")
MOST_HEADS = 10_000
DEFAULT_MEMORY = "1GB"
MOMENTUM = 0.9


class Trial(NamedTuple):
    """One fit of a head.

    Attributes:
      head: its spec.
      lr: learning rate; None for an exact head.
      l2: penalty; None for an exact head, which chooses its own.
      optimizer: of `OPTIMIZERS`.
      seed: of the initial weights and of dropout.
      label_smoothing: how much of a row's target is spread over all classes.
      momentum: of ``sgd``.
    """

    head: HeadSpec
    lr: float | None = None
    l2: float | None = None
    optimizer: str = "adam"
    seed: int = 0
    label_smoothing: float = 0.0
    momentum: float = MOMENTUM


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters of a run.

    Every head that is trained by gradient steps is combined with every learning rate, penalty,
    dropout, optimizer, seed and label smoothing. An exact head is fitted once, and chooses among
    penalties of its own.

    Attributes:
      heads: to train.
      lr: learning rates.
      optimizer: one or more of ``rmsprop``, ``adam`` and ``sgd``.
      momentum: of ``sgd``.
      epochs: over the training rows.
      batch_size: rows per step.
      class_weight: ``none``, or ``balanced`` to weigh each class inversely to its rows.
      l2: penalties on the squares of the kernels; empty means 0. For exact heads see
        `penalties_of`.
      folds: of the cross-validation that chooses a ridge head's penalty; 0 for none.
      standardise: ``none``, or ``channel`` to subtract each channel's mean and divide by its
        deviation.
      seed: of weights and dropout, one per head; the first also seeds the order of the rows.
      dropout: of every mlp head, instead of its own; empty keeps each head's own.
      label_smoothing: how much of a row's target is spread over all classes.
      patience: epochs without a lower validation loss after which a head ends; 0 for none.
      keep: how many of the best heads are saved, of those trained by gradient steps.
      multi_label: whether rows may have several labels: ``on``, ``off``, or ``auto``, which means
        on if a row has several.
      validation: which rows validate: the validation split or a carve with ``auto``, the training
        rows themselves with ``train``.
      memory: bytes of features above which they are streamed.
      augment: of pixels, fresh in each epoch, for heads that Keras trains; "" for none.
    """

    heads: tuple[HeadSpec, ...] = (HeadSpec(),)
    lr: tuple[float, ...] = (1e-3,)
    optimizer: tuple[str, ...] = ("adam",)
    momentum: float = MOMENTUM
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
    validation: str = "auto"
    memory: int = parse_size(DEFAULT_MEMORY, "--memory")
    augment: str = ""

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
            ("--validation", (self.validation,), VALIDATION),
        ):
            for value in values:
                if value not in choices:
                    raise unknown_choice(flag, value, choices)
        for flag, given, is_allowed, rule in self._rules():
            for number in given:
                if not is_allowed(number):
                    raise UsageError(f"{flag} must be {rule}, got {number}")
        self._check_count()

    def _rules(self) -> Iterable[tuple[str, Sequence[float], Callable[[float], bool], str]]:
        """Yields (flag, its numbers, whether a number is allowed, the rule in words)."""
        for flag, number in (
            ("--epochs", self.epochs),
            ("--batch_size", self.batch_size),
            ("--keep", self.keep),
        ):
            yield flag, (number,), lambda value: value >= 1, "at least 1"
        yield "--patience", (self.patience,), lambda value: value >= 0, "at least 0"
        yield "--memory", (self.memory,), lambda value: value >= 1, "above 0, such as 500MB"
        yield "--lr", self.lr, lambda value: 0 < value < math.inf, "above 0"
        yield "--l2", self.l2, lambda value: 0 <= value < math.inf, "0 or more"
        for flag, fractions in (
            ("--momentum", (self.momentum,)),
            ("--dropout", self.dropout),
            ("--label_smoothing", self.label_smoothing),
        ):
            yield flag, fractions, lambda value: 0 <= value < 1, "from 0 to below 1"
        yield "--seed", self.seed, lambda value: 0 <= value < 1 << 31, "from 0 to 2147483647"
        yield (
            "--folds",
            (self.folds,),
            lambda value: value == 0 or 2 <= value <= 100,
            "from 2 to 100, or 0 to let the validation rows choose",
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
        """Returns what every head is combined with: field of `Trial` -> distinct values."""
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

        A head's id is its slug and the settings that vary in the run, so ids are short and unique.

        Example:
          >>> list(TrainOptions(lr=(0.1, 0.01), seed=(1, 2)).trials())
          ['linear-lr0.1-seed1', 'linear-lr0.1-seed2', 'linear-lr0.01-seed1', 'linear-lr0.01-seed2']
        """
        axes = self._axes()
        found: dict[str, Trial] = {}
        for head in self._heads():
            if head.is_exact:
                found[head.slug] = Trial(head)
                continue
            for values in itertools.product(*axes.values()):
                settings = dict(zip(axes, values, strict=True))
                parts = [
                    _named(name, value) for name, value in settings.items() if len(axes[name]) > 1
                ]
                found["-".join([head.slug, *parts])] = Trial(
                    head, **settings, momentum=self.momentum
                )
        return found

    def penalties_of(self, head: HeadSpec) -> tuple[float, ...]:
        """Returns the penalties that an exact head chooses from; none for ``knn``.

        `l2` is for heads trained by gradient steps: the few penalties that suit them are a poor
        choice for a solver that tries dozens. Exact heads take `l2` only in a run without other
        heads.

        Example:
          >>> ridge = HeadSpec("ridge")
          >>> TrainOptions((ridge,), l2=(0.1,)).penalties_of(ridge)
          (0.1,)
          >>> len(TrainOptions((ridge, HeadSpec()), l2=(0.1,)).penalties_of(ridge))
          50
        """
        if head.kind not in PENALTIES:
            return ()
        is_shared = all(other.is_exact for other in self.heads)
        return head.l2 or (self.l2 if is_shared else ()) or PENALTIES[head.kind]

    def class_weights(self, counts: np.ndarray) -> tuple[float, ...] | None:
        """Returns the weight of each class by its number of rows; None if all rows count alike."""
        return class_weights(counts) if self.class_weight == "balanced" else None

    def _heads(self) -> list[HeadSpec]:
        """Returns the heads, each mlp head with every dropout."""
        heads: dict[HeadSpec, None] = {}
        for head in self.heads:
            if self.dropout and head.units:
                heads |= {replace(head, dropout=rate): None for rate in self.dropout}
            else:
                heads[head] = None
        return list(heads)

    def to_record(self) -> dict[str, Any]:
        """Returns the options by flag name, fit for JSON."""
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
