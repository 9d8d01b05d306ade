"""Measures how reliable probabilities are, and fits a temperature that calibrates them.

Temperature scaling and the expected calibration error follow Guo et al., "On Calibration of Modern
Neural Networks" (2017). A temperature never changes which class is the most probable one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from classifier.heads.probabilities import log_probabilities

BINS = 15
# The rows do not bound a temperature at an end of this range: all of them are clearly right, or the
# head predicts at random.
COLDEST, HOTTEST = 0.05, 20.0
# How exactly the logarithm of a temperature is found.
WIDTH = 1e-4


@dataclass(frozen=True)
class Bin:
    """Rows of similar confidence.

    Attributes:
      lower: least confidence, exclusive except for the first bin.
      upper: largest confidence, inclusive.
      rows: number of rows in the bin.
      confidence: mean probability of the predicted class; None without rows.
      accuracy: share of rows that are right; None without rows.
    """

    lower: float
    upper: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """The agreement of confidence and accuracy over some rows.

    Attributes:
      loss: mean cross entropy in nats.
      ece: expected calibration error, from 0 to 1.
      bins: of equal width over confidences from 0 to 1.
    """

    loss: float
    ece: float
    bins: tuple[Bin, ...]


def scaled(logs: np.ndarray, temperature: float) -> np.ndarray:
    """Returns float64 (n, k) log-probabilities at a temperature.

    Args:
      logs: float (n, k) log-probabilities, or logits.
      temperature: above 1 softens, below 1 sharpens.

    Example:
      >>> np.exp(scaled(np.log([[0.8, 0.2]]), 2.0)).round(3)
      array([[0.667, 0.333]])
    """
    return log_probabilities(logs.astype(np.float64) / temperature)


def fit_temperature(logs: np.ndarray, labels: np.ndarray) -> float:
    """Finds the temperature with the least mean cross entropy.

    The cross entropy is convex in 1 / T, like every log-sum-exp of linear functions. Its derivative
    crosses zero once, and halving finds that zero over log T. Importing `scipy.optimize` for a
    faster method would take longer than the passes that it saves.

    Args:
      logs: float (n, k) log-probabilities or logits of validation rows, all finite.
      labels: int (n,) class indices; n is at least 1.

    Returns:
      A temperature from 0.05 to 20.

    Raises:
      ValueError: without rows.
    """
    if not len(labels):
        raise ValueError("a temperature needs at least one row to fit on")
    # Only differences within a row matter; with a maximum of 0 no power overflows.
    values = logs.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    own = values[np.arange(len(labels)), labels]

    def slope(log_temperature: float) -> float:
        powers = np.exp(values / math.exp(log_temperature))
        means = np.einsum("nk,nk->n", powers, values) / powers.sum(axis=1)
        return float((means - own).mean())

    low, high = math.log(COLDEST), math.log(HOTTEST)
    # Over T, the slope in 1 / T falls: it is positive while the head is overconfident.
    if slope(low) <= 0:
        return COLDEST
    if slope(high) >= 0:
        return HOTTEST
    while high - low > WIDTH:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)


def reliability(logs: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Bins rows by confidence and compares it with their accuracy.

    ECE = sum over bins b of n_b / n * |accuracy of b - mean confidence of b|, with bins of equal
    width.

    Args:
      logs: float (n, k) log-probabilities.
      labels: int (n,) class indices; n is at least 1.
      bins: number of bins.
    """
    rows = np.arange(len(labels))
    guesses = logs.argmax(axis=1)
    confidence, right = np.exp(logs[rows, guesses]), guesses == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    confidences = np.bincount(places, confidence, bins)
    hits = np.bincount(places, right, bins)
    found = tuple(
        Bin(
            number / bins,
            (number + 1) / bins,
            int(count),
            float(confidences[number] / count) if count else None,
            float(hits[number] / count) if count else None,
        )
        for number, count in enumerate(counts)
    )
    ece = float(np.abs(hits - confidences).sum() / len(labels))
    return Reliability(float(-logs[rows, labels].mean()), ece, found)
