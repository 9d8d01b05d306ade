"""All gradient heads of a run: waves of stacks over the epochs, and what became of each head."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from classifier.features.division import class_weights
from classifier.heads.head import HeadSpec, build_head, outputs_for
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.heads.stacked.objective import Objective
from classifier.heads.stacked.partition import STATE_BUDGET, waves
from classifier.heads.stacked.progress import Progress
from classifier.heads.stacked.stack import Stack
from classifier.heads.stacked.stream import prepared
from featurestore.errors import RunFailed

if TYPE_CHECKING:
    import keras

    from classifier.heads.data import TrainingData

# Told the epoch, counted from 1, and the courses of a wave's heads by head_id.
OnEpoch = Callable[[int, Mapping[str, Progress]], None]


@dataclass(frozen=True)
class StackedFit:
    """What became of a head.

    Attributes:
      weights: of its best epoch, as a Keras head lists them; empty when they are not kept.
      history: metric name -> one value an epoch.
      best_epoch: counted from 1; 0 when its validation loss was never finite.
      parameters: numbers it learned.
      seconds: its share of the time that the wave took.
      rows_per_second: training rows through the head in that time.
    """

    weights: Sequence[np.ndarray]
    history: Mapping[str, Sequence[float]]
    best_epoch: int
    parameters: int
    seconds: float
    rows_per_second: float

    @property
    def best_loss(self) -> float:
        """The validation loss at the best epoch."""
        return self.history["val_loss"][self.best_epoch - 1]

    def without_weights(self) -> StackedFit:
        """Returns what is known of it, without what it learned."""
        return replace(self, weights=())


def fit_stacked(
    trials: Mapping[str, Trial],
    data: TrainingData,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    state_budget: int = STATE_BUDGET,
) -> Iterator[dict[str, StackedFit]]:
    """Fits heads by gradient steps; each as if it were alone.

    Args:
      trials: of the heads, by head_id.
      data: to fit on.
      options: of the run.
      on_epoch: told the epoch, counted from 1, and the courses of the heads under way.
      checkpoint: keeps the state, None for none.
      state_budget: bytes of weights and slots at once; what exceeds it waits for a later wave.

    Yields:
      The fits of a wave, by head_id.
    """
    several = data.division.multi_label
    outputs = outputs_for(data.division.classes, several)
    inputs = math.prod(data.feature_shape)
    balanced = options.class_weight == "balanced"
    weights = class_weights(data.division.train_counts) if balanced else None
    objective = Objective(outputs, several, weights)
    rows = data.division.rows[0]
    for index, wave in enumerate(waves(trials, inputs, outputs, state_budget)):
        stack = Stack([trials[name] for name in wave], inputs, objective, options.patience)
        if checkpoint is None:
            stack.start()
        done = checkpoint.restore(index, stack) if checkpoint else 0
        with stack.lanes() as lanes:
            for epoch in range(done, options.epochs):
                if stack.ended:
                    break
                started = time.perf_counter()
                train = prepared(data.train(options.seed[0], epoch), data.standard)
                stack.train_epoch(train, prepared(data.validation(), data.standard), lanes)
                stack.seconds += time.perf_counter() - started
                if on_epoch:
                    on_epoch(epoch + 1, dict(zip(wave, stack.heads, strict=True)))
                if checkpoint:
                    checkpoint.save(index, epoch + 1, stack)
        share = stack.seconds / len(wave)
        yield {
            name: _result(course, weights, share, rows)
            for name, course, weights in zip(wave, stack.heads, stack.best_weights(), strict=True)
        }


def _result(
    course: Progress, weights: Sequence[np.ndarray], seconds: float, rows: int
) -> StackedFit:
    parameters = sum(array.size for array in weights)
    rate = rows * course.epochs / seconds
    return StackedFit(weights, course.history, course.best_epoch, parameters, seconds, rate)


def keras_head(fit: StackedFit, trial: Trial, data: TrainingData) -> keras.Model:
    """Returns a fitted head as Keras has it: features -> probabilities.

    Raises:
      RunFailed: when it diverged.
    """
    spec = trial.head
    assert isinstance(spec, HeadSpec) and trial.lr is not None
    if not fit.best_epoch:
        raise RunFailed(diverged(trial))
    model = build_head(
        spec,
        data.feature_shape,
        outputs_for(data.division.classes, data.division.multi_label),
        trial.seed,
        standard=data.standard,
        multi_label=data.division.multi_label,
    )
    for name, start in (("hidden", 0), ("logits", 2)) if spec.units else (("logits", 0),):
        model.get_layer(name).set_weights(fit.weights[start : start + 2])
    return model


def diverged(trial: Trial) -> str:
    """Returns why a head came to nothing, for the user."""
    return (
        f"diverged: its validation loss was never finite with --lr {trial.lr:g}; lower --lr, or "
        "leave --standardise at channel"
    )
