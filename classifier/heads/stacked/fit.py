"""Fits all gradient heads of a run: waves of stacks over the epochs, and the result per head."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from classifier.features.order import Rows
from classifier.heads.data import Fit, TrainedHead, TrainingData
from classifier.heads.head import dense_head, outputs_for, standardised
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.heads.stacked.objective import Objective
from classifier.heads.stacked.partition import STATE_BUDGET, waves
from classifier.heads.stacked.progress import Progress
from classifier.heads.stacked.stack import Stack
from classifier.heads.stacked.stream import Batch
from featurestore.errors import RunFailed

# Called with the epoch, counted from 1, and the progress of a wave's heads by head_id.
OnEpoch = Callable[[int, Mapping[str, Progress]], None]


@dataclass(frozen=True)
class StackedFit(Fit):
    """A head that was fitted in a stack.

    Attributes:
      weights: of its best epoch, as a Keras head lists them; empty if they are not kept.
      parameters: how many numbers it learned.
    """

    weights: Sequence[np.ndarray]
    parameters: int


def fit_stacked(
    trials: Mapping[str, Trial],
    data: TrainingData,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    state_budget: int = STATE_BUDGET,
) -> Iterator[dict[str, StackedFit]]:
    """Fits heads by gradient steps, each as if it were alone.

    Args:
      trials: of the heads, by head_id.
      data: to fit on.
      options: hyperparameters of the run.
      on_epoch: called after every epoch.
      checkpoint: keeps the state; None keeps nothing.
      state_budget: bytes of weights and slots at once; more heads wait for a later wave.

    Yields:
      The fits of a wave, by head_id.
    """
    several = data.division.multi_label
    outputs = outputs_for(data.division.classes, several)
    inputs = math.prod(data.feature_shape)
    objective = Objective(outputs, several, options.class_weights(data.division.train_counts))
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
                train = _prepared(data.train(options.seed[0], epoch), data)
                stack.train_epoch(train, _prepared(data.validation(), data), lanes)
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


def _prepared(batches: Iterable[Rows], data: TrainingData) -> Iterator[Batch]:
    return ((standardised(batch, data.standard), batch.labels) for batch in batches)


def _result(
    course: Progress, weights: Sequence[np.ndarray], seconds: float, rows: int
) -> StackedFit:
    parameters = sum(array.size for array in weights)
    rate = rows * course.epochs / seconds
    return StackedFit(course.history, course.best_epoch, seconds, rate, weights, parameters)


def trained_head(fit: StackedFit, trial: Trial, data: TrainingData) -> TrainedHead:
    """Returns a fitted head with its layers.

    Args:
      fit: with its weights.
      trial: that was fitted.
      data: that it was fitted on.

    Raises:
      RunFailed: if it diverged.
    """
    if not fit.best_epoch:
        raise RunFailed(diverged(trial))
    model = dense_head(
        trial.head,
        data.feature_shape,
        fit.weights,
        trial.seed,
        standard=data.standard,
        multi_label=data.division.multi_label,
    )
    return TrainedHead(
        fit.history, fit.best_epoch, fit.seconds, fit.rows_per_second, model, trial.l2
    )


def diverged(trial: Trial) -> str:
    """Returns the reason that a head failed, for the user."""
    return (
        f"diverged: its validation loss was never finite with --lr {trial.lr:g}; lower --lr, or "
        "leave --standardise at channel"
    )
