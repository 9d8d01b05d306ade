"""What the outputs of a complete classifier are, and the head that makes probabilities of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

AUTO = "auto"
# What a model ends in: nothing (its outputs are logits), or an activation that a head must undo.
ACTIVATIONS = ("none", "softmax", "sigmoid")
# Of float16 probabilities of thousands of classes.
_SUM_TOLERANCE = 1e-2
# The smallest normal float32: softmax may round to 0, which has no logarithm.
_LEAST = 1.1754944e-38


def recognise(values: np.ndarray) -> str:
    """Tells from a model's outputs for some images which activation it ends in.

    Args:
      values: float (n, outputs).

    Returns:
      One of `ACTIVATIONS`.

    Raises:
      UsageError: when the outputs fit several.

    Example:
      >>> recognise(np.array([[0.7, 0.3], [0.5, 0.5]])), recognise(np.array([[3.0, -1.0]]))
      ('softmax', 'none')
    """
    if not np.isfinite(values).all():
        raise UsageError(
            "--model: its outputs for the probe images are not finite; its weights are damaged, or "
            "--preprocess is another than it was trained with"
        )
    if values.min() < 0 or values.max() > 1 + _SUM_TOLERANCE:
        return "none"
    if values.shape[1] == 1:
        return "sigmoid"
    if np.abs(values.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
        return "softmax"
    raise UsageError(
        "--activation auto: all outputs for the probe images are between 0 and 1 but do not add up "
        "to 1; give --activation sigmoid if each class has a probability of its own, or "
        "--activation none if they are logits"
    )


def head_of(outputs: int, activation: str) -> keras.Model:
    """Builds a head that changes no prediction.

    Args:
      outputs: of the classifier.
      activation: that it ends in. A logarithm undoes it, so that the probabilities stay the
        classifier's own, and logits can be calibrated.

    Returns:
      A model from float32 (n, outputs) to probabilities, with the layer names of every head.
    """
    keras = import_keras()
    ops, layers = keras.ops, keras.layers
    inputs = layers.Input((outputs,), dtype="float32", name="features")
    x = inputs
    if activation != "none":
        x = ops.log(ops.maximum(inputs, _LEAST))
    if activation == "sigmoid":
        x = x - ops.log(ops.maximum(1.0 - inputs, _LEAST))
    x = layers.Activation("linear", name="logits")(x)
    kind = "sigmoid" if outputs == 1 or activation == "sigmoid" else "softmax"
    return keras.Model(inputs, layers.Activation(kind, name="probabilities")(x), name="head")
