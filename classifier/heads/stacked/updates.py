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
    np.multiply(mean, np.float32(BETA_1), out=mean)
    np.add(mean, gradient, out=mean)
    np.multiply(square, np.float32(BETA_2), out=square)
    np.multiply(gradient, gradient, out=gradient)
    np.add(square, gradient, out=square)
    np.sqrt(square, out=spare)
    np.add(spare, np.float32(EPSILON / math.sqrt(1 - BETA_2)), out=spare)
    np.divide(mean, spare, out=spare)
    np.multiply(spare, rate, out=spare)
    np.subtract(weights, spare, out=weights)


def _rmsprop(
    weights: np.ndarray, slots: Slots, gradient: np.ndarray, spare: np.ndarray, rate: Rate
) -> None:
    (square,) = slots
    np.multiply(square, np.float32(RHO), out=square)
    np.multiply(gradient, gradient, out=spare)
    np.add(square, spare, out=square)
    np.add(square, np.float32(EPSILON / (1 - RHO)), out=spare)
    np.sqrt(spare, out=spare)
    np.divide(gradient, spare, out=spare)
    np.multiply(spare, rate, out=spare)
    np.subtract(weights, spare, out=weights)


def _momentum(
    weights: np.ndarray,
    slots: Slots,
    gradient: np.ndarray,
    spare: np.ndarray,
    rate: Rate,
    momentum: float,
) -> None:
    (mean,) = slots
    np.multiply(mean, np.float32(momentum), out=mean)
    np.add(mean, gradient, out=mean)
    np.multiply(mean, rate, out=spare)
    np.subtract(weights, spare, out=weights)


_RULES = {
    "adam": Rule(2, _adam_scale, _adam),
    "rmsprop": Rule(1, lambda step: 1 / math.sqrt(1 - RHO), _rmsprop),
}


def rule_of(optimizer: str, momentum: float) -> Rule:
    """Returns the rule of an optimizer; `momentum` is that of ``sgd``."""
    if optimizer == "sgd":
        return Rule(1, lambda step: 1.0, partial(_momentum, momentum=momentum))
    return _RULES[optimizer]
