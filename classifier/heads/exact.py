"""Fits ridge, logistic and nearest-neighbour heads, each as a graph of layers like any other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from classifier.features.dataset import SIDES
from classifier.features.division import Division
from classifier.features.order import Rows
from classifier.heads.data import TrainedHead, TrainingData
from classifier.heads.head import Standard, dense_head, outputs_for, standardised
from classifier.heads.headgraph import HeadGraph
from classifier.heads.logistic import Block, fit_logistic
from classifier.heads.neighbours import build_neighbours, metrics_of
from classifier.heads.network.architecture import check_network
from classifier.heads.options import TrainOptions
from classifier.heads.ridge.fit import RidgeFit, fit_ridge
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.spec import HeadSpec
from classifier.heads.stacked.partition import HEAD_LIMIT, state_bytes
from classifier.heads.stacked.progress import METRICS
from featurestore.errors import UsageError
from featurestore.units import size_text


def check_rows(options: TrainOptions, division: Division) -> None:
    """Refuses rows that no head can be trained on with these options.

    Raises:
      UsageError: for a single class, and for class weights where rows have several labels.
    """
    outputs_for(division.classes, division.multi_label)
    if division.multi_label and options.class_weight == "balanced":
        raise UsageError(
            "--class_weight balanced needs one label per row, and rows have several; leave it out"
        )


def check_heads(options: TrainOptions, feature_shape: Sequence[int], division: Division) -> None:
    """Refuses heads that cannot be fitted on these rows or in memory, before features are read.

    Raises:
      UsageError: naming the head and what to do instead.
    """
    check_rows(options, division)
    for head in options.heads:
        if head.is_network:
            check_network(head, feature_shape)
            continue
        if head.is_stacked:
            _check_size(head, options, feature_shape, division)
            continue
        if division.multi_label:
            raise UsageError(
                f"--head {head} needs one label per row, and rows have several; take linear or "
                "mlp, or give each image one label with python -m featurestore relabel"
            )
        if head.kind == "ridge":
            ridge_settings(head, options, feature_shape, division).check_memory()
        rows = division.stored_rows
        needed = 4 * rows * math.prod(feature_shape)
        if head.kind == "knn" and needed > options.memory:
            raise UsageError(
                f"--head {head} keeps its {rows:,} training rows, {size_text(needed)}, and "
                f"--memory allows {size_text(options.memory)}; give more, extract fewer values "
                "(--pooling avg, or a smaller --image_size), or take --head ridge"
            )


def _check_size(
    head: HeadSpec, options: TrainOptions, feature_shape: Sequence[int], division: Division
) -> None:
    sizes = math.prod(feature_shape), outputs_for(division.classes, division.multi_label)
    needed = max(state_bytes(head, optimizer, *sizes) for optimizer in options.optimizer)
    if needed > HEAD_LIMIT:
        raise UsageError(
            f"--head {head} would need {size_text(needed)} for its weights, and "
            f"{size_text(HEAD_LIMIT)} are allowed; give it fewer units, or extract fewer values "
            "(--pooling avg, or a smaller --image_size)"
        )


def ridge_settings(
    spec: HeadSpec, options: TrainOptions, feature_shape: Sequence[int], division: Division
) -> RidgeSettings:
    """Returns what every worker of a ridge fit has to know."""
    return RidgeSettings(
        features=math.prod(feature_shape),
        channels=feature_shape[-1],
        classes=len(division.classes),
        l2=options.penalties_of(spec),
        folds=options.folds,
        class_weights=options.class_weights(division.train_counts),
        standardise=options.standardise == "channel",
    )


def train_exact(spec: HeadSpec, data: TrainingData, options: TrainOptions) -> TrainedHead:
    """Fits one exact head.

    Args:
      spec: of the head.
      data: to fit on.
      options: hyperparameters of the run.
    """
    started = time.perf_counter()
    fits = {"ridge": _ridge, "logistic": _logistic, "knn": _neighbours}
    return fits[spec.kind](spec, data, options, started)


def _exact_head(
    model: HeadGraph,
    metrics: Mapping[str, float],
    rows: int,
    started: float,
    l2: float | None,
    penalties: Mapping[str, Sequence[float]],
) -> TrainedHead:
    """Returns a fitted head as a run keeps it, with a history of one epoch."""
    history = {name: [value] for name, value in metrics.items()}
    seconds = time.perf_counter() - started
    return TrainedHead(history, 1, seconds, rows / max(seconds, 1e-9), model, l2, penalties)


def _ridge(
    spec: HeadSpec, data: TrainingData, options: TrainOptions, started: float
) -> TrainedHead:
    settings = ridge_settings(spec, options, data.feature_shape, data.division)
    return ridge_head(
        fit_ridge(settings, data.rows), data.feature_shape, data.division.stored_rows, started
    )


def ridge_head(
    fit: RidgeFit, feature_shape: Sequence[int], rows: int, started: float
) -> TrainedHead:
    """Returns a ridge fit as a linear head whose logits are the scaled scores.

    Args:
      fit: of all rows.
      feature_shape: of one stored row.
      rows: that it was fitted on.
      started: when the fit began, by `time.perf_counter`.
    """
    path, size = fit.path, math.prod(feature_shape)
    centre, deviation = np.zeros(size), np.ones(size)
    if fit.standard is not None:
        centre = np.resize(fit.standard.mean.astype(np.float64), size)
        deviation = np.resize(fit.standard.deviation.astype(np.float64), size)
    weights = path.weights[:, 0]
    bias = path.target_mean + (centre - path.mean) @ weights
    if len(bias) == 1:
        # One score lies between the targets 0 and 1; its logit must be 0 at a half.
        bias = bias - 0.5
    kernel = weights * deviation[:, None]
    model = _linear(fit.standard, kernel * fit.scale, bias * fit.scale, feature_shape)
    return _exact_head(model, fit.metrics, rows, started, fit.l2, fit.penalties)


def _linear(
    standard: Standard | None, kernel: np.ndarray, bias: np.ndarray, feature_shape: Sequence[int]
) -> HeadGraph:
    return dense_head(HeadSpec(), feature_shape, (kernel, bias), standard=standard)


def _logistic(
    spec: HeadSpec, data: TrainingData, options: TrainOptions, started: float
) -> TrainedHead:
    def blocks(side: str) -> Iterator[Block]:
        return ((standardised(rows, data.standard), rows.labels) for rows in data.rows(side))

    sides: Callable[[str], Iterable[Block]] = blocks
    if 4 * data.division.stored_rows * math.prod(data.feature_shape) <= options.memory:
        held = {side: list(blocks(side)) for side in SIDES}
        sides = held.__getitem__
    fit, path = fit_logistic(
        sides,
        math.prod(data.feature_shape),
        len(data.division.classes),
        options.penalties_of(spec),
        options.class_weights(data.division.train_counts),
    )
    model = _linear(data.standard, fit.kernel, fit.bias, data.feature_shape)
    return _exact_head(model, fit.metrics, data.division.stored_rows, started, fit.l2, path)


def _neighbours(
    spec: HeadSpec, data: TrainingData, options: TrainOptions, started: float
) -> TrainedHead:
    rows = Rows.joined(list(data.rows("train")))
    classes = len(data.division.classes)
    model = build_neighbours(spec, rows.features, rows.labels, classes, data.standard)
    held = Rows.joined(list(data.rows("validation")))
    # Every training row is its own nearest neighbour, so figures on these rows would say nothing.
    figures = (math.nan, math.nan, *metrics_of(model, held.features, held.labels))
    metrics = dict(zip(METRICS, figures, strict=True))
    return _exact_head(model, metrics, data.division.stored_rows, started, None, {})
