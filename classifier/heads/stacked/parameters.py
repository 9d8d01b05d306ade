"""An array of weights of all heads of a group, with the optimizer's slots beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from classifier.heads.stacked.updates import Rule

# Numbers that are updated at a time. Fewer would fit a smaller cache, but each of the ten passes
# over a piece hands over Python's lock, which threads of other groups wait for: 1 << 15 took 1.2
# times as long on two cores.
PIECE = 1 << 17


class Parameter:
    """Weights of a group's heads, stacked along one axis.

    Attributes:
      value: float32, of any shape.
      axis: of the heads.
      slots: of the optimizer, shaped like `value`.
      best: the weights of each head's best epoch, which are kept in the end.
    """

    def __init__(self, heads: Sequence[np.ndarray], axis: int, rule: Rule) -> None:
        self.axis = axis
        self.value = np.ascontiguousarray(np.stack(heads, axis), np.float32)
        self.slots = [np.zeros_like(self.value) for _ in range(rule.slots)]
        self.best = self.value.copy()
        self._rule = rule

    def spread(self, numbers: np.ndarray) -> np.ndarray | np.float32:
        """Returns one number per head, shaped to multiply `value`; a scalar if all are equal."""
        if (numbers == numbers[0]).all():
            return np.float32(numbers[0])
        shape = [1] * self.value.ndim
        shape[self.axis] = len(numbers)
        return numbers.astype(np.float32).reshape(shape)

    def step(self, gradient: np.ndarray, rates: np.ndarray, decay: np.ndarray | None) -> None:
        """Updates all of it.

        Args:
          gradient: shaped like `value`; overwritten.
          rates: (heads,).
          decay: (heads,) factors of the weights to add to the gradient; None for none.
        """
        if decay is not None:
            gradient += self.value * self.spread(decay)
        spare = np.empty_like(gradient)
        self._rule.apply(self.value, self.slots, gradient, spare, self.spread(rates))

    def remember(self, heads: np.ndarray) -> None:
        """Keeps the weights of some heads as their best so far.

        Args:
          heads: bool (heads,).
        """
        place = (slice(None),) * self.axis + (heads,)
        self.best[place] = self.value[place]

    def keep(self, heads: np.ndarray) -> None:
        """Drops all heads but those at the given positions."""
        self.value, self.best = (np.take(a, heads, self.axis) for a in (self.value, self.best))
        self.slots = [np.take(slot, heads, self.axis) for slot in self.slots]

    def weights(self, position: int) -> np.ndarray:
        """Returns the best weights of a head."""
        return np.take(self.best, position, self.axis)

    def arrays(self) -> list[np.ndarray]:
        """Returns all arrays: weights, best weights, slots."""
        return [self.value, self.best, *self.slots]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Sets the arrays that `arrays` returned.

        Raises:
          ValueError: if they are of other heads or features.
        """
        shapes = {array.shape for array in arrays}
        if len(arrays) != len(self.arrays()) or shapes != {self.value.shape}:
            raise ValueError(f"weights of shape {self.value.shape} are needed, got {shapes}")
        self.value, self.best, *self.slots = arrays


class InputKernel(Parameter):
    """The kernel of the layer that reads the features, with nearly all numbers of a head.

    `value` holds the weights divided by the head's learning rate. Steps then have one size for all
    heads, so an update multiplies by a scalar. In return a product is multiplied by one factor per
    head, which is cheap, as a product has few numbers.
    """

    def __init__(
        self, heads: Sequence[np.ndarray], axis: int, rule: Rule, rates: np.ndarray
    ) -> None:
        """Takes initial weights.

        Args:
          heads: the kernel of each, float32 (features, numbers of a row).
          axis: of the heads.
          rule: the optimizer.
          rates: (heads,) learning rates.
        """
        # Each head keeps its own unit in any group: a checkpoint's arrays have these units too.
        # Beyond these bounds a quotient may overflow float32.
        self._unit = np.clip(rates, 1e-20, 1e20)
        units = self._unit.astype(np.float32)
        kernels = [kernel / unit for kernel, unit in zip(heads, units, strict=True)]
        super().__init__(kernels, axis, rule)

    def product(self, features: np.ndarray) -> np.ndarray:
        """Returns the layer's output without its bias, float32 (n, *numbers of a row)."""
        rows = len(self.value)
        result = (features @ self.value.reshape(rows, -1)).reshape(-1, *self.value.shape[1:])
        result *= self.spread(self._unit)
        return result

    def step_by_product(
        self,
        inputs: np.ndarray,
        gradient: np.ndarray,
        rates: np.ndarray,
        decay: np.ndarray | None,
    ) -> None:
        """Updates a kernel whose gradient is inputs.T @ gradient, piece by piece.

        A piece of the gradient is used while it is in the cache, and never reaches main memory.

        Args:
          inputs: float32 (n, rows of the kernel).
          gradient: float32 (n, all other numbers of a row), of the loss by the layer's output.
          rates: as in `step`.
          decay: as in `step`.
        """
        rows = len(self.value)
        flat = [array.reshape(rows, -1) for array in (self.value, *self.slots)]
        width = flat[0].shape[1]
        piece = max(1, min(rows, PIECE // width))
        rate = self._by_row(rates / self._unit, piece)
        factor = None if decay is None else self._by_row(decay * self._unit, piece)
        product, spare = np.empty((2, piece, width), np.float32)
        for start in range(0, rows, piece):
            weights, *slots = (array[start : start + piece] for array in flat)
            by_weights, more = product[: len(weights)], spare[: len(weights)]
            np.matmul(inputs[:, start : start + piece].T, gradient, out=by_weights)
            if factor is not None:
                np.multiply(weights, _first(factor, len(weights)), out=more)
                np.add(by_weights, more, out=by_weights)
            self._rule.apply(weights, slots, by_weights, more, _first(rate, len(weights)))

    def _by_row(self, numbers: np.ndarray, rows: int) -> np.ndarray | np.float32:
        """Returns one number per head for some rows of the kernel; a scalar if all are equal."""
        wide = self.spread(numbers)
        if not wide.ndim:
            return wide
        # Repeated for every row, because broadcasting one row takes longer.
        whole = np.broadcast_to(wide, (rows, *self.value.shape[1:]))
        return np.ascontiguousarray(whole).reshape(rows, -1)

    def keep(self, heads: np.ndarray) -> None:
        super().keep(heads)
        self._unit = self._unit[heads]

    def weights(self, position: int) -> np.ndarray:
        return super().weights(position) * np.float32(self._unit[position])


def _first(numbers: np.ndarray | np.float32, rows: int) -> np.ndarray | np.float32:
    return numbers[:rows] if isinstance(numbers, np.ndarray) else numbers
