"""One array of weights of every head of a group, with the optimizer's slots beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from classifier.stacked.updates import Rule

# Numbers that are updated at a time: with gradient and slots they fit a core's second-level cache.
PIECE = 1 << 15


class Parameter:
    """Weights of a group's heads, stacked along one axis.

    Attributes:
      value: float32, of any shape.
      axis: of the heads.
      slots: the optimizer's, shaped as `value`.
      best: the weights at each head's best epoch; all there is to keep of a head in the end.
    """

    def __init__(self, heads: Sequence[np.ndarray], axis: int, rule: Rule) -> None:
        self.axis = axis
        self.value = np.ascontiguousarray(np.stack(heads, axis), np.float32)
        self.slots = [np.zeros_like(self.value) for _ in range(rule.slots)]
        self.best = self.value.copy()
        self._rule = rule

    def spread(self, numbers: np.ndarray) -> np.ndarray | np.float32:
        """Returns a number a head such that it multiplies `value`; one for all is a scalar."""
        if (numbers == numbers[0]).all():
            return np.float32(numbers[0])
        shape = [1] * self.value.ndim
        shape[self.axis] = len(numbers)
        return numbers.astype(np.float32).reshape(shape)

    def step(self, gradient: np.ndarray, rates: np.ndarray, decay: np.ndarray | None) -> None:
        """Updates all of it.

        Args:
          gradient: shaped as `value`; overwritten.
          rates: (heads,).
          decay: (heads,) factors of the weights to add to the gradient, None for none.
        """
        if decay is not None:
            gradient += self.value * self.spread(decay)
        spare = np.empty_like(gradient)
        self._rule.apply(self.value, self.slots, gradient, spare, self.spread(rates))

    def step_by_product(
        self,
        inputs: np.ndarray,
        gradient: np.ndarray,
        rates: np.ndarray,
        decay: np.ndarray | None,
    ) -> None:
        """Updates a kernel whose gradient is inputs.T @ gradient, piece by piece.

        A piece of the gradient is used while it is in the cache, and never seen by main memory.

        Args:
          inputs: float32 (n, rows of the kernel).
          gradient: float32 (n, all other numbers of a row), by the layer's output.
          rates: as in `step`.
          decay: as in `step`.
        """
        rows = len(self.value)
        flat = [array.reshape(rows, -1) for array in (self.value, *self.slots)]
        width = flat[0].shape[1]
        piece = max(1, min(rows, PIECE // width))
        rate = self._by_column(rates, piece)
        factor = None if decay is None else self._by_column(decay, piece)
        product, spare = np.empty((2, piece, width), np.float32)
        for start in range(0, rows, piece):
            weights, *slots = (array[start : start + piece] for array in flat)
            by_weights, more = product[: len(weights)], spare[: len(weights)]
            np.matmul(inputs[:, start : start + piece].T, gradient, out=by_weights)
            if factor is not None:
                np.multiply(weights, factor[: len(weights)], out=more)
                np.add(by_weights, more, out=by_weights)
            self._rule.apply(weights, slots, by_weights, more, rate[: len(weights)])

    def _by_column(self, numbers: np.ndarray, rows: int) -> np.ndarray:
        # Spelled out for every row of a piece: broadcasting a row costs five times as much.
        wide = np.broadcast_to(self.spread(numbers), (rows, *self.value.shape[1:]))
        return np.ascontiguousarray(wide).reshape(rows, -1)

    def remember(self, heads: np.ndarray) -> None:
        """Takes the weights of some heads as their best so far.

        Args:
          heads: bool (heads,).
        """
        place = (slice(None),) * self.axis + (heads,)
        self.best[place] = self.value[place]

    def keep(self, heads: np.ndarray) -> None:
        """Drops all heads but those at the given positions."""
        self.value, self.best = (np.take(a, heads, self.axis) for a in (self.value, self.best))
        self.slots = [np.take(slot, heads, self.axis) for slot in self.slots]

    def arrays(self) -> list[np.ndarray]:
        """Returns all that it holds: weights, best weights, slots."""
        return [self.value, self.best, *self.slots]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes back what `arrays` gave."""
        self.value, self.best, *self.slots = arrays
