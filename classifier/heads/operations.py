"""The layers and operations of heads in NumPy, by the names of their Keras classes.

All arrays are float32, and the first axis counts rows. The figures agree with Keras's to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Keras's constants, in its `Normalization` and `UnitNormalization`.
LEAST_DEVIATION = 1e-7
LEAST_SQUARES = 1e-12

Weights = Sequence[np.ndarray]
# (config, weights, inputs) -> outputs
Operation = Callable[..., Any]


def _linear(x: np.ndarray) -> np.ndarray:
    return x


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # tanh cannot overflow.
    return (1 + np.tanh(x / 2)) / 2


def _softmax(x: np.ndarray) -> np.ndarray:
    values = np.exp(x - x.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


ACTIVATIONS = {"linear": _linear, "relu": _relu, "sigmoid": _sigmoid, "softmax": _softmax}


def _normalization(config: Mapping[str, Any], weights: Weights, x: np.ndarray) -> np.ndarray:
    mean, variance, *_ = weights
    return (x - mean) / np.maximum(np.sqrt(variance), np.float32(LEAST_DEVIATION))


def _dense(config: Mapping[str, Any], weights: Weights, x: np.ndarray) -> np.ndarray:
    kernel, bias = weights
    product = x @ kernel
    product += bias
    return ACTIVATIONS[config["activation"]](product)


def _unit(config: Mapping[str, Any], weights: Weights, x: np.ndarray) -> np.ndarray:
    squares = np.einsum("...i,...i->...", x, x)[..., None]
    return x / np.sqrt(np.maximum(squares, np.float32(LEAST_SQUARES)))


def _rescaling(config: Mapping[str, Any], weights: Weights, x: np.ndarray) -> np.ndarray:
    return x * np.float32(config["scale"]) + np.float32(config["offset"])


def _top(
    config: Mapping[str, Any], weights: Weights, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return largest(x, config["k"])


def largest(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k largest values of each row, the largest first, and their places.

    Of equal values, those further left come first, as in Keras.

    Args:
      x: float (n, m).
      k: 1 to m.

    Example:
      >>> largest(np.array([[1.0, 3.0, 3.0, 2.0]]), 3)
      (array([[3., 3., 2.]]), array([[1, 2, 3]]))
    """
    rows, width = x.shape
    least = np.partition(x, width - k, axis=1)[:, [width - k]]
    candidates = np.flatnonzero(x >= least)
    if len(candidates) == rows * k:
        places = candidates.reshape(rows, k) % width
    else:
        # Some values equal the k-th one, or some are NaN.
        places = np.argsort(-x, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(x, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)


OPERATIONS: dict[str, Operation] = {
    "InputLayer": lambda config, weights, x: x,
    "Normalization": _normalization,
    "Flatten": lambda config, weights, x: x.reshape(len(x), -1),
    "Dense": _dense,
    "Activation": lambda config, weights, x: ACTIVATIONS[config["activation"]](x),
    # Only training drops values.
    "Dropout": lambda config, weights, x: x,
    "UnitNormalization": _unit,
    "Rescaling": _rescaling,
    "Softmax": lambda config, weights, x: _softmax(x),
    "Embedding": lambda config, weights, x: weights[0][x],
    "TopK": _top,
    "TrueDivide": lambda config, weights, x, y: x / _number(y),
    "Add": lambda config, weights, x, y: x + _number(y),
    "Subtract": lambda config, weights, x, y: x - _number(y),
    "Multiply": lambda config, weights, x, y: x * _number(y),
    "ExpandDims": lambda config, weights, x: np.expand_dims(x, config["axis"]),
    "Sum": lambda config, weights, x: x.sum(config["axis"], keepdims=config["keepdims"]),
    "Mean": lambda config, weights, x: x.mean(config["axis"], keepdims=config["keepdims"]),
    "Log": lambda config, weights, x: np.log(x),
    "Maximum": lambda config, weights, x, y: np.maximum(x, _number(y)),
    "GetItem": lambda config, weights, x, place: x[place],
}
# Settings of a layer that these functions take for granted.
ASSUMED: dict[str, tuple[Any, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "data_format": ("channels_last",),
    "invert": (False,),
    "sorted": (True,),
    "use_bias": (True,),
}


def is_known(kind: str, config: Mapping[str, Any]) -> bool:
    """Returns whether a layer of this class and these settings is one of `OPERATIONS`."""
    if kind not in OPERATIONS:
        return False
    if kind in ("Normalization", "UnitNormalization", "Softmax"):
        if config["axis"] not in (-1, [-1]):
            return False
    return all(config[name] in values for name, values in ASSUMED.items() if name in config)


def _number(value: Any) -> Any:
    """Returns a constant in float32, and an array as it is."""
    return np.float32(value) if isinstance(value, int | float) else value
