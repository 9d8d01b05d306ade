"""Other ways to train many heads at once: a Keras model of einsum layers, JAX, and PyTorch.

All start from the weights that Hoarfrost's heads start from, take the same batches in the same
order, and update by Adam with a learning rate per head. So their accuracies must agree with
Hoarfrost's, which the benchmark prints beside the times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import installed
from benchmarks.rounds import NotRun
from classifier.features.order import Rows
from classifier.heads.data import TrainingData
from classifier.heads.head import outputs_for, standardised
from classifier.heads.options import TrainOptions
from classifier.heads.stacked.stack import initial_weights
from classifier.heads.stacked.updates import BETA_1, BETA_2, EPSILON
from classifier.runtime import import_keras

EINSUM, VMAP, TORCH = "one Keras model of einsum layers", "jax.vmap", "torch.func.vmap"


@dataclass(frozen=True)
class Start:
    """What a rival starts from.

    Attributes:
      weights: as a Keras head lists them (kernel, bias, ...), with all heads in one array:
        float32 (heads, ...).
      rates: the learning rate of each head, float32 (heads,).
    """

    weights: Sequence[np.ndarray]
    rates: np.ndarray

    @classmethod
    def of(cls, data: TrainingData, options: TrainOptions) -> Start:
        """Returns the start of the heads of a run, which have one structure."""
        sizes = math.prod(data.feature_shape), outputs_for(data.division.classes)
        trials = options.trials().values()
        heads = [initial_weights(trial, *sizes) for trial in trials]
        weights = [np.stack(arrays) for arrays in zip(*heads, strict=True)]
        return cls(weights, np.array([trial.lr for trial in trials], np.float32))


@dataclass(frozen=True)
class Rival:
    """Heads that are trained together.

    Attributes:
      step: takes a gradient step of every head on float32 (n, features) and int64 labels (n,).
      logits: returns float32 (n, heads, outputs) for float32 (n, features).
    """

    step: Callable[[np.ndarray, np.ndarray], Any]
    logits: Callable[[np.ndarray], np.ndarray]


def einsum_layers(start: Start) -> Rival:
    """Returns one Keras model whose `EinsumDense` layers hold all heads."""
    keras = import_keras()
    ops, heads = keras.ops, len(start.rates)
    adam: Any = keras.optimizers.Adam

    class PerHead(adam):
        """Adam with a rate per head; in every variable the heads are the last axis but one."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, start.rates[:, None])

    def loss(labels: Any, logits: Any) -> Any:
        each = ops.broadcast_to(ops.reshape(labels, (-1, 1)), ops.shape(logits)[:2])
        entropy = keras.losses.sparse_categorical_crossentropy(each, logits, from_logits=True)
        return ops.sum(entropy, -1)

    kernels, biases = start.weights[::2], start.weights[1::2]
    model = keras.Sequential([keras.Input(kernels[0].shape[1:2])])
    for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        layer = keras.layers.EinsumDense(
            "bi,iho->bho" if number == 0 else "bhi,iho->bho",
            (heads, kernel.shape[2]),
            activation="relu" if number + 1 < len(kernels) else None,
            bias_axes="ho",
        )
        model.add(layer)
        layer.set_weights([kernel.transpose(1, 0, 2), bias])
    model.compile(PerHead(1.0), loss)
    # By batches: `fit` took longer here, since each epoch copies its rows and sets up a pipeline.
    return Rival(model.train_on_batch, model.predict_on_batch)


def vmapped(start: Start) -> Rival:
    """Returns `jax.vmap` of the step of one head, compiled.

    Raises:
      NotRun: if JAX is not installed.
    """
    if not installed("jax"):
        raise NotRun("JAX is not installed; pip install 'hoarfrost[bench]' brings it")
    import jax

    numpy = jax.numpy

    def forward(weights: Any, features: Any) -> Any:
        for number in range(0, len(weights) - 2, 2):
            features = jax.nn.relu(features @ weights[number] + weights[number + 1])
        return features @ weights[-2] + weights[-1]

    def loss(weights: Any, features: Any, labels: Any) -> Any:
        chances = jax.nn.log_softmax(forward(weights, features))
        return -numpy.take_along_axis(chances, labels[:, None], 1).mean()

    def head_step(state: Any, rate: Any, count: Any, features: Any, labels: Any) -> Any:
        weights, means, squares = state
        gradients = jax.grad(loss)(weights, features, labels)
        rate = rate * numpy.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
        pairs = list(zip(weights, means, squares, gradients, strict=True))
        means = [BETA_1 * mean + (1 - BETA_1) * new for _, mean, _, new in pairs]
        squares = [BETA_2 * square + (1 - BETA_2) * new**2 for _, _, square, new in pairs]
        weights = [
            weight - rate * mean / (numpy.sqrt(square) + EPSILON)
            for weight, mean, square in zip(weights, means, squares, strict=True)
        ]
        return weights, means, squares

    step = jax.jit(jax.vmap(head_step, (0, 0, None, None, None)), donate_argnums=0)
    outputs = jax.jit(jax.vmap(forward, (0, None), 1))
    state = [[numpy.array(array) * factor for array in start.weights] for factor in (1, 0, 0)]
    count = 0

    def train(features: np.ndarray, labels: np.ndarray) -> None:
        nonlocal state, count
        count += 1
        state = step(state, start.rates, np.float32(count), features, labels)

    return Rival(train, lambda features: np.asarray(outputs(state[0], features)))


def torch_vmapped(start: Start) -> Rival:
    """Returns `torch.func.vmap` of the gradient of one head, and Adam in place on all heads.

    Raises:
      NotRun: if PyTorch is not installed.
    """
    if not installed("torch"):
        raise NotRun("PyTorch is not installed; pip install 'hoarfrost[examples]' brings it")
    import torch
    from torch.nn.functional import cross_entropy

    def forward(weights: Any, features: Any) -> Any:
        for number in range(0, len(weights) - 2, 2):
            features = torch.relu(features @ weights[number] + weights[number + 1])
        return features @ weights[-2] + weights[-1]

    def loss(weights: Any, features: Any, labels: Any) -> Any:
        return cross_entropy(forward(weights, features), labels)

    gradients_of = torch.func.vmap(torch.func.grad(loss), (0, None, None))
    outputs = torch.func.vmap(forward, (0, None), 1)
    weights = [torch.tensor(array) for array in start.weights]
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    rates = torch.tensor(start.rates)
    count = 0

    def train(features: np.ndarray, labels: np.ndarray) -> None:
        nonlocal count
        count += 1
        scale = math.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
        gradients = gradients_of(weights, torch.from_numpy(features), torch.from_numpy(labels))
        for weight, mean, square, gradient in zip(weights, means, squares, gradients, strict=True):
            mean.mul_(BETA_1).add_(gradient, alpha=1 - BETA_1)
            square.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            rate = rates.reshape(-1, *[1] * (weight.ndim - 1)) * scale
            weight.sub_(rate * mean / (square.sqrt() + EPSILON))

    return Rival(train, lambda features: outputs(weights, torch.from_numpy(features)).numpy())


def rival_accuracy(rival: Rival, data: TrainingData, options: TrainOptions) -> np.ndarray:
    """Trains a rival; returns each head's validation accuracy after the last epoch, (heads,)."""

    def prepared(rows: Rows) -> np.ndarray:
        return standardised(rows, data.standard)

    for epoch in range(options.epochs):
        for rows in data.train(options.seed[0], epoch):
            rival.step(prepared(rows), rows.labels)
        hits = [
            rival.logits(prepared(rows)).argmax(-1) == rows.labels[:, None]
            for rows in data.validation()
        ]
    return np.concatenate(hits).mean(axis=0)
