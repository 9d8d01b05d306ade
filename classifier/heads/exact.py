"""Fits ridge, logistic and nearest-neighbour heads; each ends as a Keras model like any other."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifier.features.division import Division, class_weights
from classifier.features.order import Rows
from classifier.heads.data import TrainedHead, TrainingData
from classifier.heads.exactspec import ExactSpec
from classifier.heads.head import HeadSpec, Standard, build_head, outputs_for
from classifier.heads.logistic import fit_logistic
from classifier.heads.neighbours import build_neighbours, metrics_of
from classifier.heads.options import TrainOptions
from classifier.heads.ridge.fit import RidgeFit, fit_ridge
from classifier.heads.ridge.passes import RidgeSettings
from classifier.heads.stacked.partition import HEAD_LIMIT, state_bytes
from featurestore.errors import UsageError
from featurestore.units import size_text

if TYPE_CHECKING:
    import keras


def check_heads(options: TrainOptions, feature_shape: Sequence[int], division: Division) -> None:
    """Refuses heads that would need too much memory, before anything is read.

    Raises:
      UsageError: naming the head and what to do instead.
    """
    if division.multi_label and options.class_weight == "balanced":
        raise UsageError(
            "--class_weight balanced needs one label a row, and rows have several; leave it out"
        )
    for head in options.heads:
        if not isinstance(head, ExactSpec):
            _check_size(head, options, feature_shape, division)
            continue
        if division.multi_label:
            raise UsageError(
                f"--head {head} needs one label a row, and rows have several; take linear or mlp, "
                "or give each image one label with python -m featurestore relabel"
            )
        if head.kind == "ridge":
            ridge_settings(head, options, feature_shape, division).check_memory()
        rows = division.stored_rows
        needed = 4 * rows * math.prod(feature_shape)
        if head.kind == "knn" and needed > options.memory:
            raise UsageError(
                f"--head {head} keeps its {rows:,} training rows, {size_text(needed)}, and "
                f"--memory allows {size_text(options.memory)}; give more, extract with --pooling "
                "avg, or take --head ridge"
            )


def _check_size(
    head: HeadSpec, options: TrainOptions, feature_shape: Sequence[int], division: Division
) -> None:
    sizes = math.prod(feature_shape), outputs_for(division.classes, division.multi_label)
    needed = max(state_bytes(head, optimizer, *sizes) for optimizer in options.optimizer)
    if needed > HEAD_LIMIT:
        raise UsageError(
            f"--head {head} would need {size_text(needed)} for its weights, and "
            f"{size_text(HEAD_LIMIT)} are allowed; give it fewer units, or extract with --pooling "
            "avg"
        )


def _weights(options: TrainOptions, division: Division) -> tuple[float, ...] | None:
    if options.class_weight != "balanced":
        return None
    return tuple(class_weights(division.train_counts).values())


def ridge_settings(
    spec: ExactSpec, options: TrainOptions, feature_shape: Sequence[int], division: Division
) -> RidgeSettings:
    """Returns what every worker of a ridge fit has to know."""
    return RidgeSettings(
        features=math.prod(feature_shape),
        channels=feature_shape[-1],
        classes=len(division.classes),
        l2=options.penalties_of(spec),
        folds=options.folds,
        class_weights=_weights(options, division),
        standardise=options.standardise == "channel",
    )


def train_exact(spec: ExactSpec, data: TrainingData, options: TrainOptions) -> TrainedHead:
    """Fits one exact head.

    Args:
      spec: of the head.
      data: to fit on.
      options: of the run.
    """
    started = time.perf_counter()
    fits = {"ridge": _ridge, "logistic": _logistic, "knn": _neighbours}
    model, l2, metrics, path = fits[spec.kind](spec, data, options)
    return exact_head(model, l2, metrics, path, data.division, time.perf_counter() - started)


def exact_head(
    model: keras.Model,
    l2: float | None,
    metrics: Mapping[str, float],
    path: Mapping[str, Sequence[float]],
    division: Division,
    seconds: float,
) -> TrainedHead:
    """Returns a fitted head as the run keeps it: a history of one epoch.

    Args:
      model: features -> probabilities.
      l2: the chosen penalty.
      metrics: loss, accuracy, val_loss, val_accuracy.
      path: figures by penalty.
      division: what it was fitted on.
      seconds: the fit took.
    """
    history = {name: [value] for name, value in metrics.items()}
    rows = division.stored_rows
    return TrainedHead(model, history, 1, seconds, rows / max(seconds, 1e-9), l2, path)


def _ridge(spec: ExactSpec, data: TrainingData, options: TrainOptions):
    settings = ridge_settings(spec, options, data.feature_shape, data.division)
    fit = fit_ridge(settings, data.rows)
    return ridge_model(fit, data.feature_shape), fit.l2, fit.metrics, fit.penalties


def ridge_model(fit: RidgeFit, feature_shape: Sequence[int]) -> keras.Model:
    """Returns a ridge fit as a linear head whose logits are the scores, scaled."""
    path, size = fit.path, math.prod(feature_shape)
    centre, deviation = np.zeros(size), np.ones(size)
    if fit.standard is not None:
        centre = np.resize(fit.standard.mean.astype(np.float64), size)
        deviation = np.resize(fit.standard.deviation.astype(np.float64), size)
    weights = path.weights[:, 0]
    bias = path.target_mean + (centre - path.mean) @ weights
    if len(bias) == 1:
        # One score between the targets 0 and 1; its logit must be 0 half-way.
        bias = bias - 0.5
    kernel = weights * deviation[:, None]
    return _linear(fit.standard, kernel * fit.scale, bias * fit.scale, feature_shape)


def _linear(
    standard: Standard | None, kernel: np.ndarray, bias: np.ndarray, feature_shape: Sequence[int]
) -> keras.Model:
    model = build_head(HeadSpec(), feature_shape, len(bias), 0, standard=standard)
    model.get_layer("logits").set_weights([kernel, bias])
    return model


def _logistic(spec: ExactSpec, data: TrainingData, options: TrainOptions):
    fit, path = fit_logistic(
        data.rows,
        math.prod(data.feature_shape),
        len(data.division.classes),
        options.penalties_of(spec),
        data.standard,
        _weights(options, data.division),
    )
    model = _linear(data.standard, fit.kernel, fit.bias, data.feature_shape)
    return model, fit.l2, fit.metrics, path


def _neighbours(spec: ExactSpec, data: TrainingData, options: TrainOptions):
    rows = Rows.joined(list(data.rows("train")))
    classes = len(data.division.classes)
    outputs_for(data.division.classes)
    model = build_neighbours(spec, rows.features, rows.labels, classes, data.standard)
    held = Rows.joined(list(data.rows("validation")))
    loss, accuracy = metrics_of(model, held.features, held.labels)
    # Every training row is its own nearest neighbour: figures on them would say nothing.
    nothing = float("nan")
    return (
        model,
        None,
        {"loss": nothing, "accuracy": nothing, "val_loss": loss, "val_accuracy": accuracy},
        {},
    )
