"""Joins everything between pixels and probabilities in one Keras model.

Preprocessing, base, pooling, the rounding of stored features, standardisation and head are layers
of one functional model. It uses layers and operations of Keras alone, so a program that loads it
needs none of our code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from classifier.base.preprocess import pool_graph, preprocess_graph
from classifier.heads.head import logits_model
from classifier.runtime import import_keras
from featurestore.spec import StoreSpec
from featurestore.taps import columns_of, outputs_of

if TYPE_CHECKING:
    import keras

# Converters of these formats drop a cast to float16 and back, as if it changed nothing.
DROP_CASTS = ("openvino", "onnx")
# 2 ** (24 - 11) + 1: float32 has 24 significant bits, float16 has 11.
_SPLITTER = 8193.0
_LEAST_FLOAT16 = -65504.0


def whole_model(
    base: keras.Model,
    head: keras.Model,
    spec: StoreSpec,
    multi_label: bool,
    temperature: float = 1.0,
    keeps_casts: bool = True,
) -> keras.Model:
    """Builds the model of an export.

    Args:
      base: from preprocessed float32 (n, H, W, 3 or 1) to the cut layer's output.
      head: from stored features to probabilities.
      spec: of the features.
      multi_label: whether each class has a probability of its own.
      temperature: by which logits are divided; 1 leaves them as they are.
      keeps_casts: whether float16 rounding survives as casts; otherwise it is arithmetic.

    Returns:
      A functional model from uint8 (n, H, W, 3) ``pixels`` to float32 (n, classes)
      ``probabilities``; two classes have two columns.
    """
    keras = import_keras()
    ops = keras.ops
    pixels = keras.Input((*spec.pixels.image_size, 3), dtype="uint8", name="pixels")
    x = ops.cast(pixels, "float32")
    x = preprocess_graph(spec.base.preprocess, base.input_shape[-1])(x)
    outputs = keras.tree.flatten(base(x, training=False))
    parts = []
    for (output, pooling), column in zip(outputs_of(spec.base), columns_of(spec), strict=True):
        x = ops.cast(outputs[output], "float32")
        x = pool_graph(pooling, len(x.shape))(x)
        if column.dtype == "float16":
            # The head learned from rounded features.
            x = ops.cast(ops.cast(x, "float16"), "float32") if keeps_casts else _rounded(x)
        parts.append(x)
    if spec.base.taps:
        flat = [ops.reshape(part, (-1, math.prod(part.shape[1:]))) for part in parts]
        x = ops.concatenate(flat, axis=1)
    outputs = _classified(head, x, multi_label, temperature)
    return keras.Model(pixels, outputs, name="classifier")


def model_of_features(
    head: keras.Model, spec: StoreSpec, multi_label: bool, temperature: float = 1.0
) -> keras.Model:
    """Builds what follows an ONNX or OpenVINO graph, which no network of Keras can hold.

    Args:
      head: from stored features to probabilities.
      spec: of the features.
      multi_label: whether each class has a probability of its own.
      temperature: by which logits are divided; 1 leaves them as they are.

    Returns:
      A functional model from float32 (n, *feature_shape) ``features`` to float32 (n, classes)
      ``probabilities``, for a format that drops casts. Several taps are flattened and joined.
    """
    keras = import_keras()
    features = keras.Input(spec.feature_shape, dtype="float32", name="features")
    columns, parts, start = columns_of(spec), [], 0
    for column in columns:
        # A part of the values of a map would be a part of its rows.
        part = features
        if len(columns) > 1:
            part = features[:, start : start + column.feature_size]
        parts.append(_rounded(part) if column.dtype == "float16" else part)
        start += column.feature_size
    x = keras.ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return keras.Model(features, _classified(head, x, multi_label, temperature), name="classifier")


def _classified(head: keras.Model, x: Any, multi_label: bool, temperature: float) -> Any:
    """Returns the probabilities of a head for stored features."""
    logits = logits_model(head)(x, training=False)
    if temperature != 1:
        logits = logits / temperature
    return _probabilities(import_keras(), logits, multi_label)


def _rounded(x: Any) -> Any:
    """Rounds float32 values to the 11 significant bits of float16.

    This is Veltkamp's splitting (Dekker, "A floating-point technique for extending the available
    precision", 1971). Values below 6e-5 keep more bits than float16 has for them.
    """
    scaled = x * _SPLITTER
    # TensorFlow's optimiser would merge the subtraction with the next one, and lose the rounding.
    # No stored value is below the bound.
    return import_keras().ops.maximum(scaled - (scaled - x), _LEAST_FLOAT16)


def _probabilities(keras: Any, logits: Any, multi_label: bool) -> Any:
    if multi_label:
        return keras.layers.Activation("sigmoid", name="probabilities")(logits)
    if logits.shape[1] == 1:
        # The logit of the second of two classes; that of the first is 0.
        logits = keras.ops.concatenate([logits * 0.0, logits], axis=1)
    return keras.layers.Softmax(name="probabilities")(logits)
