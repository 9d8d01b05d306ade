"""Cross entropy of many heads at once: its value, the accuracy, and its gradient by the logits.

Logits are float32 (n, outputs, heads): the heads come last, because sums over a short last axis are
slow. A single output is the logit of the second of two classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Objective:
    """A loss, and the weight of each row in it.

    Attributes:
      outputs: logits of a row.
      multi_label: whether a row may be of several classes, with one sigmoid each.
      class_weights: by class index; None if all rows count alike. Not for multi-label heads.
    """

    outputs: int
    multi_label: bool = False
    class_weights: Sequence[float] | None = None

    @property
    def sigmoid(self) -> bool:
        """Whether outputs are independent of each other."""
        return self.multi_label or self.outputs == 1

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns sums over rows of each head's cross entropy and accuracy, float64 (heads,).

        Class weights and label smoothing are left out, so that heads stay comparable. For
        multi-label heads both figures are means over the classes. The logits are overwritten by
        what `gradient` needs.

        Args:
          logits: float32 (n, outputs, heads).
          labels: int64 (n,) class indices; for multi-label heads (n, outputs) of 0 and 1.
        """
        if self.sigmoid:
            return _sigmoid(logits, self._targets(labels))
        return _softmax(logits, labels)

    def gradient(
        self, probabilities: np.ndarray, labels: np.ndarray, smoothing: np.ndarray | None
    ) -> np.ndarray:
        """Returns the gradient of the mean loss by the logits; overwrites the probabilities.

        Args:
          probabilities: what `measure` left in place of the logits.
          labels: as in `measure`.
          smoothing: float32 (heads,) fractions of label smoothing; None for none.
        """
        result, rows = probabilities, len(labels)
        if self.sigmoid:
            targets = self._targets(labels)
            result -= targets if smoothing is None else targets * (1 - smoothing) + smoothing / 2
        else:
            result[np.arange(rows), labels] -= 1 if smoothing is None else 1 - smoothing
            if smoothing is not None:
                result -= smoothing / self.outputs
        scale = 1 / (rows * self.outputs if self.sigmoid else rows)
        if self.class_weights is None:
            result *= np.float32(scale)
            return result
        by_class = np.array(self.class_weights)
        result *= (by_class[labels] * scale).astype(np.float32)[:, None, None]
        return result

    def _targets(self, labels: np.ndarray) -> np.ndarray:
        return labels.reshape(len(labels), self.outputs, 1).astype(np.float32)


def _softmax(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]
    # The largest logit is now 0. `argmax` over an axis in the middle would take four times as long.
    hits = (own == 0).sum(axis=0)
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    loss = (np.log(total) - own).sum(axis=0, dtype=np.float64)
    logits /= total[:, None]
    return loss, hits


def _sigmoid(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes = logits.shape[1]
    right = (logits > 0) == (targets > 0)
    hits = right.sum(axis=(0, 1)) / classes
    # The exponent is never positive, so it cannot overflow.
    small = np.exp(-np.abs(logits))
    entropy = np.maximum(logits, 0) - logits * targets + np.log1p(small)
    loss = entropy.sum(axis=(0, 1), dtype=np.float64) / classes
    logits[:] = np.where(logits >= 0, 1, small) / (1 + small)
    return loss, hits
