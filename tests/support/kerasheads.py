"""Heads built by Keras itself: what our networks and their files are compared with."""

from __future__ import annotations

import numpy as np

from classifier.heads.neighbours import TEMPERATURE
from classifier.runtime import import_keras


def keras_head(spec, feature_shape, weights, seed=0, *, standard=None, multi_label=False):
    """Takes what `classifier.heads.head.dense_head` takes."""
    keras = import_keras()
    layers = keras.layers
    inputs = layers.Input(tuple(feature_shape), dtype="float32", name="features")
    x = standardised(standard, feature_shape, inputs)
    if len(feature_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    if spec.units:
        x = layers.Dense(spec.units, name="hidden")(x)
        if spec.activation != "linear":
            x = layers.Activation(spec.activation, name=spec.activation)(x)
    if spec.dropout:
        x = layers.Dropout(spec.dropout, seed=seed, name="dropout")(x)
    x = layers.Dense(len(weights[-1]), name="logits")(x)
    kind = "sigmoid" if len(weights[-1]) == 1 or multi_label else "softmax"
    model = keras.Model(inputs, layers.Activation(kind, name="probabilities")(x), name="head")
    for name, start in (("hidden", 0), ("logits", 2)) if spec.units else (("logits", 0),):
        model.get_layer(name).set_weights(weights[start : start + 2])
    return model


def standardised(standard, feature_shape, x):
    if standard is None:
        return x
    layer = import_keras().layers.Normalization(axis=-1, name="standardise")
    layer.build((None, *feature_shape))
    layer.adapt_mean.assign(standard.mean)
    layer.adapt_variance.assign(np.square(standard.deviation))
    layer.finalize_state()
    return layer(x)


def keras_neighbours(spec, features, labels, classes, standard):
    """Takes what `classifier.heads.neighbours.build_neighbours` takes."""
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    inputs = layers.Input(features.shape[1:], dtype="float32", name="features")
    x = standardised(standard, features.shape[1:], inputs)
    if features.ndim > 2:
        x = layers.Flatten(name="flatten")(x)
    if spec.metric == "cosine":
        x = layers.UnitNormalization(name="unit")(x)
    else:
        x = layers.Rescaling(float(np.prod(features.shape[1:])) ** -0.5, name="rescale")(x)
    points = keras.Model(inputs, x).predict(features.astype(np.float32), verbose=0)
    closeness = layers.Dense(len(points), name="neighbours")
    similarity = closeness(x)
    bias = np.zeros(len(points))
    if spec.metric == "euclidean":
        bias = -np.square(points).sum(axis=1) / 2
    closeness.set_weights([points.T, bias])
    values, places = ops.top_k(similarity, min(spec.neighbours, len(points)))
    table = layers.Embedding(len(points), classes, name="labels")
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
