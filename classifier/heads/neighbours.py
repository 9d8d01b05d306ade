"""A k-nearest-neighbour probe as a Keras model, so that it is saved and used like any head.

The training rows are the kernel of a dense layer: one matrix product gives all similarities. The
bias of ``euclidean`` turns a product into half the negative squared distance, up to a term that is
the same for every neighbour of an image and so changes neither their order nor their shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.heads.head import Standard, standardise
from classifier.heads.spec import HeadSpec
from classifier.runtime import import_keras

if TYPE_CHECKING:
    import keras

# Of the votes, as in DINO (Caron et al., 2021): exp(similarity / 0.07).
TEMPERATURE = 0.07
# Queries at a time in validation: each needs one float32 per training row.
QUERIES = 256


def build_neighbours(
    spec: HeadSpec,
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    standard: Standard | None,
) -> keras.Model:
    """Builds the probe.

    Args:
      spec: neighbours, metric and vote.
      features: (n, *feature_shape) training rows, as stored.
      labels: int (n,).
      classes: how many there are.
      standard: of the features; None leaves them as they are.

    Returns:
      A functional model, float32 (m, *feature_shape) -> float32 (m, outputs) probabilities. One
      pseudo-neighbour votes evenly for all classes, so that no class has probability 0.
    """
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    inputs = layers.Input(features.shape[1:], dtype="float32", name="features")
    scaled = _scaled(keras, spec, inputs, standard)
    points = keras.Model(inputs, scaled).predict(features.astype(np.float32), verbose=0)
    rows = len(points)
    closeness = layers.Dense(rows, name="neighbours")
    similarity = closeness(scaled)
    bias = np.zeros(rows) if spec.metric == "cosine" else -np.square(points).sum(axis=1) / 2
    closeness.set_weights([points.T, bias])
    values, places = ops.top_k(similarity, min(spec.neighbours, rows))
    table = layers.Embedding(rows, classes, name="labels")
    votes = table(places)
    table.set_weights([np.eye(classes, dtype=np.float32)[labels]])
    if spec.vote == "weighted":
        shares = layers.Softmax(name="shares")(values / TEMPERATURE)
        counted = ops.sum(votes * ops.expand_dims(shares, -1), axis=1)
    else:
        counted = ops.mean(votes, axis=1)
    logits = ops.log(counted + 1 / (spec.neighbours * classes))
    if classes == 2:
        logits = logits[:, 1:] - logits[:, :1]
    kind = "sigmoid" if classes == 2 else "softmax"
    outputs = layers.Activation(kind, name="probabilities")(logits)
    return keras.Model(inputs, outputs, name="head")


def _scaled(keras: Any, spec: HeadSpec, inputs: Any, standard: Standard | None) -> Any:
    """Returns the vectors whose products are similarities."""
    layers, shape = keras.layers, inputs.shape[1:]
    x = inputs if standard is None else standardise(standard, shape)(inputs)
    if len(shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    if spec.metric == "cosine":
        return layers.UnitNormalization(name="unit")(x)
    # The mean of squared differences instead of the sum: one temperature serves any length.
    return layers.Rescaling(float(np.prod(shape)) ** -0.5, name="rescale")(x)


def metrics_of(model: keras.Model, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns (mean cross entropy, accuracy) of rows in memory."""
    probabilities = model.predict(features.astype(np.float32), batch_size=QUERIES, verbose=0)
    if probabilities.shape[1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(own).mean()), float((probabilities.argmax(axis=1) == labels).mean())
