"""Optimizers as in-place updates of arrays of any shape, by Keras's formulas and defaults.

Slots are kept without their constant factors (Adam's first moment is divided by 1 - beta_1, and so
on), which saves a pass over each. The rate makes up for the factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
RHO = 0.9

Slots = Sequence[np.ndarray]
Rate = np.ndarray | np.float32
Apply = Callable[[np.ndarray, Slots, np.ndarray, np.ndarray, Rate], None]


class Rule(NamedTuple):
    """An optimizer.

    Attributes:
      slots: how many arrays it keeps beside each array of weights.
      scale: factor of the learning rate at a step, counted from 1.
      apply: updates (weights, slots) by (gradient, spare, rate). All are float32 of one shape, but
        the rate is broadcast. Gradient and spare are overwritten.
    """

    slots: int
    scale: Callable[[int], float]
    apply: Apply


def _adam_scale(step: int) -> float:
    correction = math.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    return correction * (1 - BETA_1) / math.sqrt(1 - BETA_2)


def _adam(
    weights: np.ndarray, slots: Slots, gradient: np.ndarray, spare: np.ndarray, rate: Rate
) -> None:
    mean, square = slots
    _fade(mean, BETA_1, gradient)
    np.multiply(gradient, gradient, out=gradient)
    _fade(square, BETA_2, gradient)
    np.sqrt(square, out=spare)
    np.add(spare, np.float32(EPSILON / math.sqrt(1 - BETA_2)), out=spare)
    np.divide(mean, spare, out=spare)
    _descend(weights, spare, rate)


def _rmsprop(
    weights: np.ndarray, slots: Slots, gradient: np.ndarray, spare: np.ndarray, rate: Rate
) -> None:
    (square,) = slots
    np.multiply(gradient, gradient, out=spare)
    _fade(square, RHO, spare)
    np.add(square, np.float32(EPSILON / (1 - RHO)), out=spare)
    np.sqrt(spare, out=spare)
    np.divide(gradient, spare, out=spare)
    _descend(weights, spare, rate)


def _momentum(
    weights: np.ndarray,
    slots: Slots,
    gradient: np.ndarray,
    spare: np.ndarray,
    rate: Rate,
    momentum: float,
) -> None:
    (mean,) = slots
    _fade(mean, momentum, gradient)
    np.copyto(spare, mean)
    _descend(weights, spare, rate)


def _fade(slot: np.ndarray, factor: float, new: np.ndarray) -> None:
    """Sets a slot to ``factor * slot + new``."""
    _add_scaled(slot, factor, new, slot)


def _descend(weights: np.ndarray, direction: np.ndarray, rate: Rate) -> None:
    """Subtracts ``rate * direction`` from the weights; overwrites the direction."""
    if isinstance(rate, np.ndarray):
        np.multiply(direction, rate, out=direction)
        np.subtract(weights, direction, out=weights)
    else:
        _add_scaled(direction, -float(rate), weights, weights)


def _add_scaled(array: np.ndarray, factor: float, other: np.ndarray, out: np.ndarray) -> None:
    """Sets `out` to ``factor * array + other`` in one pass; all are contiguous float32.

    NumPy would take a pass for the product and another for the sum.
    """
    # Imported here, so that reading the options stays quick.
    from cv2 import scaleAdd

    assert out.flags.c_contiguous, "a flat view of it would be a copy"
    # As a vector, because OpenCV would take a third axis for channels, of which it allows few.
    scaleAdd(array.reshape(-1), factor, other.reshape(-1), out.reshape(-1))


_RULES = {
    "adam": Rule(2, _adam_scale, _adam),
    "rmsprop": Rule(1, lambda step: 1 / math.sqrt(1 - RHO), _rmsprop),
}


def rule_of(optimizer: str, momentum: float) -> Rule:
    """Returns the rule of an optimizer; `momentum` is that of ``sgd``."""
    if optimizer == "sgd":
        return Rule(1, lambda step: 1.0, partial(_momentum, momentum=momentum))
    return _RULES[optimizer]
