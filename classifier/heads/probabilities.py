"""Turns logits into probabilities, in float64."""

from __future__ import annotations

import numpy as np


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns float64 (n, k) logarithms of probabilities.

    Args:
      logits: float (n, k); or (n, 1), the logit of the second of two classes.

    Example:
      >>> np.exp(log_probabilities(np.array([[0.0]])))
      array([[0.5, 0.5]])
    """
    values = logits.astype(np.float64)
    if values.shape[1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))
