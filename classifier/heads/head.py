"""Heads: small classifiers on stored features.

A head takes features as they are stored. It standardises each channel with statistics of the
training rows, which are part of the head so that evaluation and prediction cannot forget them. It
flattens a map, and ends in probabilities: one sigmoid unit for two classes, a softmax for more.

Training and evaluation use the layer below the probabilities: the cross entropy of logits stays
exact where a probability has long been rounded to 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.base.graph import convolves
from classifier.features.order import Rows, flattened
from classifier.heads.headgraph import PROBABILITIES, HeadGraph, Tensor
from classifier.heads.spec import HeadSpec
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

# Dividing by the deviation of a channel that hardly varies in training would magnify every small
# shift at prediction. The smallest divisor is a tenth of the root mean square deviation.
LEAST_RELATIVE_DEVIATION = 0.1
CONVOLVED_ROWS = 32


@dataclass(frozen=True)
class Standard:
    """What a head subtracts from features, and what it divides them by.

    Attributes:
      mean: float32 (channels,).
      deviation: float32 (channels,), all positive.
    """

    mean: np.ndarray
    deviation: np.ndarray


class Moments:
    """The running mean and deviation of each channel over batches of features.

    The formula that merges batches is from Chan et al., "Updating formulae and a pairwise algorithm
    for computing sample variances" (1979). Unlike a sum of squares it does not cancel.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._square = np.zeros(channels)

    def update(self, features: np.ndarray) -> None:
        """Takes in features of any float dtype (n, ..., channels)."""
        values = features.reshape(-1, features.shape[-1])
        if not len(values):
            return
        mean = values.mean(axis=0, dtype=np.float64)
        square = values.var(axis=0, dtype=np.float64) * len(values)
        total = self._count + len(values)
        step = mean - self._mean
        self._mean += step * len(values) / total
        self._square += square + step**2 * self._count * len(values) / total
        self._count = total

    def standard(self) -> Standard:
        """Returns the statistics; see `LEAST_RELATIVE_DEVIATION` for the smallest deviation."""
        return standard_of(self._mean, self._square / max(self._count, 1))


def standard_of(mean: np.ndarray, variance: np.ndarray) -> Standard:
    """Returns what to standardise by; see `LEAST_RELATIVE_DEVIATION` for the smallest deviation.

    Args:
      mean: float64 (channels,).
      variance: float64 (channels,); of a channel that hardly varies, a difference of two sums may
        be a little below 0.
    """
    variance = np.maximum(variance, 0.0)
    typical = math.sqrt(variance.mean())
    floor = LEAST_RELATIVE_DEVIATION * typical if typical > 0 else 1.0
    deviation = np.maximum(np.sqrt(variance), floor)
    return Standard(mean.astype(np.float32), deviation.astype(np.float32))


def standardised(rows: Rows, standard: Standard | None) -> np.ndarray:
    """Returns float32 (n, d): the features of rows, standardised and flattened.

    Args:
      rows: features of any float dtype.
      standard: statistics per channel; None leaves features as they are.
    """
    features = rows.features.astype(np.float32)
    if standard is not None:
        features -= standard.mean
        features /= standard.deviation
    return flattened(features)


def outputs_for(classes: Sequence[str], multi_label: bool = False) -> int:
    """Returns the number of output units: one per class, but a single one for two classes of which
    each row has one.

    Raises:
      UsageError: for fewer than two classes.
    """
    if len(classes) < 2:
        raise UsageError(
            f"a head needs at least 2 classes, the training rows have {len(classes)}"
            f"{': ' + repr(classes[0]) if classes else ''}; add images of another class, or labels"
        )
    return 1 if len(classes) == 2 and not multi_label else len(classes)


def dense_head(
    spec: HeadSpec,
    feature_shape: Sequence[int],
    weights: Sequence[np.ndarray],
    seed: int = 0,
    *,
    standard: Standard | None = None,
    multi_label: bool = False,
) -> HeadGraph:
    """Returns a head of dense layers.

    Args:
      spec: of the head.
      feature_shape: of one stored row, such as (5, 5, 512) or (1280,).
      weights: kernel and bias of each layer: of the hidden one, if there is one, and of the logits.
        A single logit means a sigmoid, more mean a softmax.
      seed: of its dropout.
      standard: statistics per channel; None leaves features as they are.
      multi_label: whether each output is a sigmoid of its own.
    """
    graph = HeadGraph()
    x = flat(graph, standardise(graph, graph.input(feature_shape), standard))
    if spec.units:
        x = dense(graph, "hidden", x, weights[:2])
        if spec.activation != "linear":
            x = graph.layer("Activation", spec.activation, x, x.shape, activation=spec.activation)
    if spec.dropout:
        x = graph.layer(
            "Dropout", "dropout", x, x.shape, rate=spec.dropout, seed=seed, noise_shape=None
        )
    x = dense(graph, "logits", x, weights[-2:])
    probabilities(graph, x, x.shape == (1,) or multi_label)
    return graph


def standardise(graph: HeadGraph, x: Tensor, standard: Standard | None) -> Tensor:
    """Adds the layer that standardises features, unless `standard` is None."""
    if standard is None:
        return x
    arrays = (standard.mean, np.square(standard.deviation), np.zeros((), np.int64))
    config: dict[str, Any] = {"axis": [-1], "invert": False, "mean": None, "variance": None}
    return graph.layer("Normalization", "standardise", x, x.shape, arrays, **config)


def flat(graph: HeadGraph, x: Tensor) -> Tensor:
    """Adds the layer that flattens maps; vectors are left as they are."""
    if len(x.shape) == 1:
        return x
    size = (math.prod(x.shape),)
    return graph.layer("Flatten", "flatten", x, size, data_format="channels_last")


def dense(graph: HeadGraph, name: str, x: Tensor, weights: Sequence[np.ndarray]) -> Tensor:
    """Adds a dense layer of these weights, kernel and bias."""
    kernel, bias = (np.asarray(array, np.float32) for array in weights)
    glorot = {"seed": None, "input_axes": None, "output_axes": None}
    kinds = {"kernel": ("GlorotUniform", glorot), "bias": ("Zeros", {})}
    config: dict[str, Any] = {"units": len(bias), "activation": "linear", "use_bias": True}
    for part, (kind, settings) in kinds.items():
        config[f"{part}_initializer"] = initializer(kind, settings)
        config |= {f"{part}_regularizer": None, f"{part}_constraint": None}
    config["quantization_config"] = None
    return graph.layer("Dense", name, x, (len(bias),), (kernel, bias), **config)


def initializer(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an initializer as Keras writes it."""
    named = {"module": "keras.initializers", "class_name": kind, "config": settings}
    return {**named, "registered_name": None}


def probabilities(graph: HeadGraph, x: Tensor, sigmoid: bool) -> None:
    """Adds the last layer."""
    kind = "sigmoid" if sigmoid else "softmax"
    graph.layer("Activation", PROBABILITIES, x, x.shape, activation=kind)


def logits_model(head: keras.Model) -> keras.Model:
    """Returns the head without its last activation; the weights are shared, not copied."""
    keras = import_keras()
    return keras.Model(head.inputs[0], head.get_layer("probabilities").input, name="logits")


def forward(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs `model` on batches of any length, compiled once.

    A model that convolves gets few rows at a time, because its inner maps are far larger than they.
    """
    import_keras()
    import tensorflow as tf

    shape = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    graph = tf.function(lambda x: model(x, training=False), input_signature=[shape])
    most = CONVOLVED_ROWS if convolves(model) else None

    def run(features: np.ndarray) -> np.ndarray:
        size = most or max(len(features), 1)
        starts = range(0, max(len(features), 1), size)
        parts = (features[start : start + size].astype(np.float32, copy=False) for start in starts)
        return np.concatenate([graph(part).numpy() for part in parts])

    return run
