"""Multinomial logistic regression by L-BFGS over all rows, the usual linear probe of publications.

Minimises the mean cross entropy plus ``l2`` times the squares of the weights of standardised
features; scikit-learn's ``LogisticRegression(C)`` is ``l2 = 1 / (2 C n)``. Penalties are fitted
from the strongest to the weakest, and each fit starts from the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from classifier.features.order import Rows
from classifier.heads.head import Standard, standardised
from classifier.heads.probabilities import log_probabilities
from classifier.heads.stacked.progress import METRICS

ITERATIONS = 200
# The gradient of a mean cross entropy in float32 is not more precise than this.
GRADIENT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear head.

    Attributes:
      l2: its penalty.
      kernel: float64 (d, k), for standardised features.
      bias: float64 (k,).
      metrics: loss, accuracy, val_loss, val_accuracy.
    """

    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    metrics: dict[str, float]


class _Problem:
    """The sums over rows that a step of L-BFGS needs."""

    def __init__(
        self, classes: int, standard: Standard | None, class_weights: Sequence[float] | None
    ) -> None:
        self._classes = classes
        self._outputs = 1 if classes == 2 else classes
        self._standard = standard
        self._class_weights = np.ones(classes) if class_weights is None else class_weights

    def start(self, features: int) -> np.ndarray:
        """Returns zeros (d + 1, k): the kernel, and the bias as its last row."""
        return np.zeros((features + 1, self._outputs))

    def logs(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns float64 (n, classes) logarithms of probabilities."""
        return log_probabilities(x @ weights[:-1].astype(np.float32) + weights[-1])

    def loss(
        self, weights: np.ndarray, l2: float, blocks: Iterable[Rows]
    ) -> tuple[float, np.ndarray]:
        """Returns the penalised mean loss and its gradient."""
        total, loss, gradient = 0.0, 0.0, np.zeros_like(weights)
        for rows in blocks:
            x = standardised(rows, self._standard)
            logs = self.logs(x, weights)
            own = np.asarray(self._class_weights)[rows.labels]
            loss -= float(own @ logs[np.arange(len(x)), rows.labels])
            errors = np.exp(logs)
            errors[np.arange(len(x)), rows.labels] -= 1
            errors = errors[:, -self._outputs :] * own[:, None]
            gradient[:-1] += x.T @ errors.astype(np.float32)
            gradient[-1] += errors.sum(axis=0)
            total += float(own.sum())
        kernel = weights[:-1]
        gradient /= total
        gradient[:-1] += 2 * l2 * kernel
        return loss / total + l2 * float(np.square(kernel).sum()), gradient

    def judge(self, weights: np.ndarray, blocks: Iterable[Rows]) -> tuple[float, float]:
        """Returns (mean cross entropy, accuracy)."""
        count, loss, hits = 0, 0.0, 0
        for rows in blocks:
            logs = self.logs(standardised(rows, self._standard), weights)
            loss -= float(logs[np.arange(len(logs)), rows.labels].sum())
            hits += int((logs.argmax(axis=1) == rows.labels).sum())
            count += len(logs)
        return loss / count, hits / count


def fit_logistic(
    rows: Callable[[str], Iterable[Rows]],
    features: int,
    classes: int,
    l2: Sequence[float],
    standard: Standard | None,
    class_weights: Sequence[float] | None = None,
) -> tuple[LinearFit, dict[str, list[float]]]:
    """Fits every penalty and keeps the one with the least validation loss.

    Args:
      rows: takes ``train`` or ``validation``; returns blocks of rows. Called in every step.
      features: d, of a flattened row.
      classes: how many there are; two classes share one output.
      l2: penalties.
      standard: of the features; None leaves them as they are.
      class_weights: of each class; None for 1 each.

    Returns:
      (the best fit, validation loss and accuracy by penalty).
    """
    from scipy.optimize import minimize

    problem = _Problem(classes, standard, class_weights)
    weights = problem.start(features)
    shape = weights.shape
    found = []
    for penalty in sorted(set(l2), reverse=True):

        def step(flat: np.ndarray, penalty: float = penalty) -> tuple[float, np.ndarray]:
            loss, gradient = problem.loss(flat.reshape(shape), penalty, rows("train"))
            return loss, gradient.ravel()

        limits = {"maxiter": ITERATIONS, "gtol": GRADIENT_TOLERANCE}
        done = minimize(step, weights.ravel(), jac=True, method="L-BFGS-B", options=limits)
        weights = done.x.reshape(shape)
        found.append((penalty, weights, *problem.judge(weights, rows("validation"))))
    best = min(found, key=lambda item: item[2])
    loss, accuracy = problem.judge(best[1], rows("train"))
    metrics = dict(zip(METRICS, (loss, accuracy, *best[2:]), strict=True))
    columns = {"l2": 0, "val_loss": 2, "val_accuracy": 3}
    path = {name: [item[column] for item in found] for name, column in columns.items()}
    return LinearFit(best[0], best[1][:-1], best[1][-1], metrics), path
