"""Heads as Keras models: small classifiers on stored features.

A head takes features as they are stored. It standardises each channel with statistics of the
training rows, which are part of the head so that evaluation and prediction cannot forget them. It
flattens a map, and ends in probabilities: one sigmoid unit for two classes, a softmax for more.

Training and evaluation use the layer below the probabilities (`logits_model`): the cross entropy of
logits stays exact where a probability has long been rounded to 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.order import Rows, flattened
from classifier.heads.spec import HeadSpec
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

# Dividing by the deviation of a channel that hardly varies in training would magnify every small
# shift at prediction. The smallest divisor is a tenth of the root mean square deviation.
LEAST_RELATIVE_DEVIATION = 0.1


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


def build_head(
    spec: HeadSpec,
    feature_shape: Sequence[int],
    n_outputs: int,
    seed: int,
    *,
    standard: Standard | None = None,
    multi_label: bool = False,
) -> keras.Model:
    """Builds an untrained head.

    Args:
      spec: of the head.
      feature_shape: of one stored row, such as (5, 5, 512) or (1280,).
      n_outputs: units of the last layer; 1 means a sigmoid, more mean a softmax.
      seed: of the initial weights and of dropout.
      standard: statistics per channel; None leaves features as they are.
      multi_label: whether each output is a sigmoid of its own.

    Returns:
      A functional model, float32 (n, *feature_shape) -> float32 (n, n_outputs) probabilities.
    """
    keras = import_keras()
    layers = keras.layers

    def dense(units: int, name: str, step: int) -> Any:
        return layers.Dense(
            units,
            name=name,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed + step),
        )

    inputs = layers.Input(tuple(feature_shape), dtype="float32", name="features")
    x = inputs
    if standard is not None:
        x = standardise(standard, feature_shape)(x)
    if len(feature_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    if spec.dropout and not spec.units:
        x = layers.Dropout(spec.dropout, seed=seed, name="dropout")(x)
    if spec.units:
        x = dense(spec.units, "hidden", 1)(x)
        if spec.activation != "linear":
            x = layers.Activation(spec.activation, name=spec.activation)(x)
        if spec.dropout:
            x = layers.Dropout(spec.dropout, seed=seed, name="dropout")(x)
    x = dense(n_outputs, "logits", 2)(x)
    kind = "sigmoid" if n_outputs == 1 or multi_label else "softmax"
    return keras.Model(inputs, layers.Activation(kind, name="probabilities")(x), name="head")


def standardise(standard: Standard, feature_shape: Sequence[int]) -> keras.layers.Normalization:
    """Returns a layer that standardises features of shape (n, *feature_shape)."""
    layer = import_keras().layers.Normalization(axis=-1, name="standardise")
    layer.build((None, *feature_shape))
    # Weights, because arguments would be written out in the model's JSON.
    layer.adapt_mean.assign(standard.mean)
    layer.adapt_variance.assign(np.square(standard.deviation))
    layer.finalize_state()
    return layer


def logits_model(head: keras.Model) -> keras.Model:
    """Returns the head without its last activation; the weights are shared, not copied."""
    keras = import_keras()
    return keras.Model(head.inputs[0], head.get_layer("probabilities").input, name="logits")
