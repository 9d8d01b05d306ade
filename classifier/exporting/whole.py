"""Joins everything between pixels and probabilities in one Keras model.

Preprocessing, base, pooling, the rounding of stored features, standardisation and head are layers
of one functional model. It uses layers and operations of Keras alone, so a program that loads it
needs none of our code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifier.base.preprocess import pool_graph, preprocess_graph
from classifier.heads.head import logits_model
from classifier.runtime import import_keras
from featurestore.spec import StoreSpec

if TYPE_CHECKING:
    import keras


def whole_model(
    base: keras.Model, head: keras.Model, spec: StoreSpec, multi_label: bool, temperature: float
) -> keras.Model:
    """Builds the model of an export.

    Args:
      base: from preprocessed float32 (n, H, W, 3) to the cut layer's output.
      head: from stored features to probabilities.
      spec: of the features.
      multi_label: whether each class has a probability of its own.
      temperature: by which logits are divided; 1 leaves them as they are.

    Returns:
      A functional model from uint8 (n, H, W, 3) ``pixels`` to float32 (n, classes)
      ``probabilities``; two classes have two columns.
    """
    keras = import_keras()
    ops = keras.ops
    pixels = keras.Input((*spec.pixels.image_size, 3), dtype="uint8", name="pixels")
    x = preprocess_graph(spec.base.preprocess)(ops.cast(pixels, "float32"))
    x = base(x, training=False)
    x = pool_graph(spec.base.pooling, len(base.output_shape))(ops.cast(x, "float32"))
    if spec.dtype == "float16":
        # The head learned from rounded features.
        x = ops.cast(ops.cast(x, "float16"), "float32")
    logits = logits_model(head)(x, training=False)
    if temperature != 1:
        logits = logits / temperature
    return keras.Model(pixels, _probabilities(keras, logits, multi_label), name="classifier")


def _probabilities(keras: Any, logits: Any, multi_label: bool) -> Any:
    if multi_label:
        return keras.layers.Activation("sigmoid", name="probabilities")(logits)
    if logits.shape[1] == 1:
        # The logit of the second of two classes; that of the first is 0.
        logits = keras.ops.concatenate([logits * 0.0, logits], axis=1)
    return keras.layers.Softmax(name="probabilities")(logits)
