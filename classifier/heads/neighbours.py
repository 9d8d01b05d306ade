"""A k-nearest-neighbour probe as a graph of layers, so that it is saved and used like any head.

The training rows are the kernel of a dense layer: one matrix product gives all similarities. The
bias of ``euclidean`` turns a product into half the negative squared distance, up to a term that is
the same for every neighbour of an image and so changes neither their order nor their shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from classifier.heads.head import Standard, dense, flat, initializer, probabilities, standardise
from classifier.heads.headgraph import HeadGraph, Tensor
from classifier.heads.probabilities import log_probabilities
from classifier.heads.spec import HeadSpec

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
) -> HeadGraph:
    """Builds the probe.

    Args:
      spec: neighbours, metric and vote.
      features: (n, *feature_shape) training rows, as stored.
      labels: int (n,).
      classes: how many there are.
      standard: of the features; None leaves them as they are.

    Returns:
      A graph, float32 (m, *feature_shape) -> float32 (m, outputs) probabilities. One
      pseudo-neighbour votes evenly for all classes, so that no class has probability 0.
    """
    graph = HeadGraph()
    x = standardise(graph, graph.input(features.shape[1:]), standard)
    x = _scaled(graph, spec, flat(graph, x))
    points = np.concatenate([graph(block) for block in _blocks(features)])
    rows, k = len(points), min(spec.neighbours, len(points))
    bias = np.zeros(rows) if spec.metric == "cosine" else -np.square(points).sum(axis=1) / 2
    # Contiguous, because a product with it then takes less time.
    similarity = dense(graph, "neighbours", x, (np.ascontiguousarray(points.T), bias))
    best = graph.operation("TopK", (similarity,), (k,), k=k, sorted=True)
    counted = _counted(graph, spec, best, np.eye(classes)[labels])
    pseudo = 1 / (spec.neighbours * classes)
    logits = graph.operation(
        "Log", (graph.operation("Add", (counted, pseudo), (classes,)),), (classes,)
    )
    if classes == 2:
        every = slice(None)
        ends = [
            graph.operation("GetItem", (logits, (every, part)), (1,))
            for part in (slice(1, None), slice(None, 1))
        ]
        logits = graph.operation("Subtract", ends, (1,))
    probabilities(graph, logits, classes == 2)
    return graph


def _counted(graph: HeadGraph, spec: HeadSpec, best: Tensor, votes_of_rows: np.ndarray) -> Tensor:
    """Adds the mean or the weighted sum of the neighbours' votes.

    Args:
      best: the similarities of the nearest rows, (k,), and in its second output their numbers.
      votes_of_rows: (n, classes), the vote of each training row.
    """
    (k,), classes = best.shape, votes_of_rows.shape[1]
    weighted = spec.vote == "weighted"
    if weighted:
        scaled = graph.operation("TrueDivide", (best, TEMPERATURE), (k,))
        shares = graph.layer("Softmax", "shares", scaled, (k,), axis=-1)
    votes = _votes(graph, Tensor(best.layer, (k,), 1, "int32"), votes_of_rows)
    if not weighted:
        return graph.operation("Mean", (votes,), (classes,), axis=1, keepdims=False)
    spread = graph.operation("ExpandDims", (shares,), (k, 1), axis=-1)
    product = graph.operation("Multiply", (votes, spread), (k, classes))
    return graph.operation("Sum", (product,), (classes,), axis=1, keepdims=False)


def _scaled(graph: HeadGraph, spec: HeadSpec, x: Tensor) -> Tensor:
    """Adds what turns features into vectors whose products are similarities."""
    if spec.metric == "cosine":
        return graph.layer("UnitNormalization", "unit", x, x.shape, axis=-1)
    # The mean of squared differences instead of the sum: one temperature serves any length.
    return graph.layer("Rescaling", "rescale", x, x.shape, scale=x.shape[0] ** -0.5, offset=0.0)


def _votes(graph: HeadGraph, places: Tensor, table: np.ndarray) -> Tensor:
    """Adds the table of labels: float (rows, classes), looked up at the places."""
    rows, classes = table.shape
    config: dict[str, Any] = {"input_dim": rows, "output_dim": classes}
    random = {"seed": None, "minval": -0.05, "maxval": 0.05}
    config["embeddings_initializer"] = initializer("RandomUniform", random)
    config |= {"embeddings_regularizer": None, "activity_regularizer": None}
    config |= {"embeddings_constraint": None, "mask_zero": False, "quantization_config": None}
    shape = (*places.shape, classes)
    return graph.layer("Embedding", "labels", places, shape, (table.astype(np.float32),), **config)


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    return (features[start : start + QUERIES] for start in range(0, len(features), QUERIES))


def metrics_of(head: HeadGraph, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns (mean cross entropy, accuracy) of rows in memory."""
    logs = np.concatenate([log_probabilities(head.logits(block)) for block in _blocks(features)])
    own = logs[np.arange(len(labels)), labels]
    return float(-own.mean()), float((logs.argmax(axis=1) == labels).mean())
