"""Multinomial logistic regression by L-BFGS over all rows, the usual linear probe of publications.

Minimises the mean cross entropy plus ``l2`` times the squares of the weights of standardised
features; scikit-learn's ``LogisticRegression(C)`` is ``l2 = 1 / (2 C n)``. Penalties are fitted
from the strongest to the weakest, and each fit starts from the one before.

Blocks of rows are computed side by side, each with one BLAS thread. The vectors of L-BFGS are so
short that BLAS threads would wait for each other most of the time: on a busy machine a step took 25
times as long with two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from classifier.heads.probabilities import log_probabilities
from classifier.heads.stacked.progress import METRICS
from featurestore.io.cores import cores
from featurestore.io.readahead import ordered_map

# With these the loss ends within a millionth of its least value, unless the rows are separable and
# the penalty is next to nothing.
LIMITS = {"maxiter": 500, "maxfun": 1000, "gtol": 1e-6, "ftol": 1e-12}

Block = tuple[np.ndarray, np.ndarray]


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
    """The sums over rows that a step of L-BFGS needs; blocks are (float32 (n, d), int labels)."""

    def __init__(
        self, classes: int, class_weights: Sequence[float] | None, pool: ThreadPoolExecutor
    ) -> None:
        self._classes = classes
        self._outputs = 1 if classes == 2 else classes
        self._class_weights = np.ones(classes) if class_weights is None else class_weights
        self._pool = pool

    def start(self, features: int) -> np.ndarray:
        """Returns zeros (d + 1, k): the kernel, and the bias as its last row."""
        return np.zeros((features + 1, self._outputs))

    def loss(
        self, weights: np.ndarray, l2: float, blocks: Iterable[Block]
    ) -> tuple[float, np.ndarray]:
        """Returns the penalised mean loss and its gradient."""
        total, loss, gradient = 0.0, 0.0, np.zeros_like(weights)
        for count, part, by_kernel, by_bias in self._each(self._sums, weights, blocks):
            total += count
            loss += part
            gradient[:-1] += by_kernel
            gradient[-1] += by_bias
        kernel = weights[:-1]
        gradient /= total
        gradient[:-1] += 2 * l2 * kernel
        return loss / total + l2 * float(np.square(kernel).sum()), gradient

    def judge(self, weights: np.ndarray, blocks: Iterable[Block]) -> tuple[float, float]:
        """Returns (mean cross entropy, accuracy)."""
        found = np.array(list(self._each(_figures, weights, blocks))).sum(axis=0)
        return float(found[1] / found[0]), float(found[2] / found[0])

    def _each(
        self, work: Callable[[np.ndarray, Block], Any], weights: np.ndarray, blocks: Iterable[Block]
    ) -> Iterator[Any]:
        """Yields what some work gives for each block, in order."""
        return ordered_map(self._pool, partial(work, weights), blocks, cores() + 1)

    def _sums(
        self, weights: np.ndarray, block: Block
    ) -> tuple[float, float, np.ndarray, np.ndarray]:
        """Returns sums over rows: of weights, of losses, and of gradients by kernel and bias."""
        x, labels = block
        logs = _logs(weights, x)
        own = np.asarray(self._class_weights)[labels]
        loss = -float(own @ logs[np.arange(len(x)), labels])
        errors = np.exp(logs)
        errors[np.arange(len(x)), labels] -= 1
        errors = errors[:, -self._outputs :] * own[:, None]
        return float(own.sum()), loss, x.T @ errors.astype(np.float32), errors.sum(axis=0)


def _logs(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns float64 (n, classes) logarithms of probabilities."""
    return log_probabilities(x @ weights[:-1].astype(np.float32) + weights[-1])


def _figures(weights: np.ndarray, block: Block) -> tuple[float, float, float]:
    """Returns sums over rows: their number, their cross entropies, and those that are right."""
    x, labels = block
    logs = _logs(weights, x)
    hits = (logs.argmax(axis=1) == labels).sum()
    return len(x), -float(logs[np.arange(len(x)), labels].sum()), float(hits)


def fit_logistic(
    blocks: Callable[[str], Iterable[Block]],
    features: int,
    classes: int,
    l2: Sequence[float],
    class_weights: Sequence[float] | None = None,
) -> tuple[LinearFit, dict[str, list[float]]]:
    """Fits every penalty and keeps the one with the least validation loss.

    Args:
      blocks: takes ``train`` or ``validation``; returns blocks of standardised and flattened
        features, float32 (n, d), and labels, int (n,). Called in every step.
      features: d.
      classes: how many there are; two classes share one output.
      l2: penalties.
      class_weights: of each class; None for 1 each.

    Returns:
      (the best fit, validation loss and accuracy by penalty).
    """
    # Imported before the limit, which reaches only libraries that are loaded.
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    found = []
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores(), "logistic") as pool:
        problem = _Problem(classes, class_weights, pool)
        weights = problem.start(features)
        shape = weights.shape
        for penalty in sorted(set(l2), reverse=True):

            def step(flat: np.ndarray, penalty: float = penalty) -> tuple[float, np.ndarray]:
                loss, gradient = problem.loss(flat.reshape(shape), penalty, blocks("train"))
                return loss, gradient.ravel()

            done = minimize(step, weights.ravel(), jac=True, method="L-BFGS-B", options=LIMITS)
            weights = done.x.reshape(shape)
            found.append((penalty, weights, *problem.judge(weights, blocks("validation"))))
        best = min(found, key=lambda item: item[2])
        loss, accuracy = problem.judge(best[1], blocks("train"))
    metrics = dict(zip(METRICS, (loss, accuracy, *best[2:]), strict=True))
    columns = {"l2": 0, "val_loss": 2, "val_accuracy": 3}
    path = {name: [item[column] for item in found] for name, column in columns.items()}
    return LinearFit(best[0], best[1][:-1], best[1][-1], metrics), path
