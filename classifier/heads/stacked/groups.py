"""Heads of one structure that are trained together: their arrays, a step, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from classifier.heads.options import Trial
from classifier.heads.stacked.objective import Objective
from classifier.heads.stacked.parameters import InputKernel, Parameter
from classifier.heads.stacked.updates import rule_of


class Structure(NamedTuple):
    """What heads must have in common to lie side by side.

    Linear heads that drop features lie beside those that drop the same ones, because all heads of a
    group read the same array.
    """

    units: int
    activation: str
    optimizer: str
    momentum: float = 0.0
    dropout: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, trial: Trial) -> Structure:
        """Returns the structure of a trial's head."""
        spec = trial.head
        momentum = trial.momentum if trial.optimizer == "sgd" else 0.0
        if spec.units:
            return cls(spec.units, spec.activation, trial.optimizer, momentum)
        seed = trial.seed if spec.dropout else 0
        return cls(0, "", trial.optimizer, momentum, spec.dropout, seed)


class Group:
    """Heads of one structure in training.

    Subclasses compute logits from features, and the gradients back.

    Attributes:
      members: the number of each head in the run.
      kernel: of the layer that reads the features.
      rest: the other parameters, in the order of a Keras head's weights.
      steps: taken so far.
      sums: float64 (2, heads): cross entropy and accuracy, summed over the rows since `take_sums`.
    """

    def __init__(
        self,
        members: Sequence[int],
        trials: Sequence[Trial],
        weights: Sequence[Sequence[np.ndarray]],
        objective: Objective,
    ) -> None:
        """Makes a group.

        Args:
          members: the numbers of the heads.
          trials: one per head.
          weights: the initial weights of each head, as a Keras head lists them.
          objective: the loss of all heads of the run.
        """
        self.members = list(members)
        self.steps = 0
        self.sums = np.zeros((2, len(members)))
        self._trials = list(trials)
        self._objective = objective
        self._rule = rule_of(trials[0].optimizer, trials[0].momentum)
        self._read_trials()
        arrays = [[head[number] for head in weights] for number in range(len(weights[0]))]
        axis, *axes = self._axes()
        self.kernel = InputKernel(arrays[0], axis, self._rule, self._lr)
        rest = zip(arrays[1:], axes, strict=True)
        self.rest = [Parameter(heads, axis, self._rule) for heads, axis in rest]

    def _axes(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _read_trials(self) -> None:
        trials = self._trials
        self._lr = np.array([trial.lr for trial in trials])
        decay = np.array([2 * (trial.l2 or 0.0) for trial in trials])
        self._decay = decay if decay.any() else None
        smoothing = np.array([trial.label_smoothing for trial in trials], np.float32)
        self._smoothing = smoothing if smoothing.any() else None

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of a Keras head's weights."""
        return [self.kernel, *self.rest]

    def train(self, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Takes a step for each batch of (float32 (n, features), labels)."""
        # Set here, as NumPy keeps this setting per thread. The loss shows a head that diverges.
        with np.errstate(all="ignore"):
            for features, labels in batches:
                logits = self._forward(features, True)
                self.sums += self._objective.measure(logits, labels)
                self.steps += 1
                gradient = self._objective.gradient(logits, labels, self._smoothing)
                self._backward(features, gradient, self._lr * self._rule.scale(self.steps))

    def validate(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Adds the rows' figures to the sums."""
        with np.errstate(all="ignore"):
            self.sums += self._objective.measure(self._forward(features, False), labels)

    def take_sums(self) -> np.ndarray:
        """Returns the sums, and sets them to zero."""
        sums, self.sums = self.sums, np.zeros_like(self.sums)
        return sums

    def weights(self, position: int) -> list[np.ndarray]:
        """Returns the best weights of a head, as a Keras head lists them."""
        return [part.weights(position) for part in self.parameters]

    def remember(self, heads: np.ndarray) -> None:
        """Keeps the weights of some heads, bool (heads,), as their best so far."""
        for part in self.parameters:
            part.remember(heads)

    def keep(self, positions: np.ndarray) -> None:
        """Drops all heads but those at the given positions."""
        self.members = [self.members[position] for position in positions]
        self._trials = [self._trials[position] for position in positions]
        self.sums = self.sums[:, positions]
        for part in self.parameters:
            part.keep(positions)
        self._read_trials()

    def _forward(self, features: np.ndarray, training: bool) -> np.ndarray:
        raise NotImplementedError

    def _backward(self, features: np.ndarray, gradient: np.ndarray, rates: np.ndarray) -> None:
        raise NotImplementedError


class LinearGroup(Group):
    """Linear heads: one product forward, one back. Kernel (features, outputs, heads)."""

    def _axes(self) -> tuple[int, ...]:
        return 2, 1

    def _read_trials(self) -> None:
        super()._read_trials()
        self._dropout = self._trials[0].seed, self._trials[0].head.dropout
        self._kept = np.empty(0, np.float32)

    def _forward(self, features: np.ndarray, training: bool) -> np.ndarray:
        seed, rate = self._dropout
        if training:
            self._kept = features
            if rate:
                self._kept = features * kept_factor(seed, self.steps, rate, features.shape)
        logits = self.kernel.product(self._kept if training else features)
        logits += self.rest[0].value
        return logits

    def _backward(self, features: np.ndarray, gradient: np.ndarray, rates: np.ndarray) -> None:
        flat = gradient.reshape(len(gradient), -1)
        self.kernel.step_by_product(self._kept, flat, rates, self._decay)
        self.rest[0].step(gradient.sum(axis=0), rates, None)


class MlpGroup(Group):
    """Heads with a hidden layer: kernels (features, heads, units) and (heads, units, outputs)."""

    def _axes(self) -> tuple[int, ...]:
        return 1, 0, 0, 0

    def _read_trials(self) -> None:
        super()._read_trials()
        self._relu = Structure.of(self._trials[0]).activation == "relu"
        self._dropout = [(trial.seed, trial.head.dropout) for trial in self._trials]
        self._hidden = self._slope = np.empty(0, np.float32)

    def _forward(self, features: np.ndarray, training: bool) -> np.ndarray:
        bias, top, top_bias = (part.value for part in self.rest)
        hidden = self.kernel.product(features)
        hidden += bias
        if self._relu:
            np.maximum(hidden, 0, out=hidden)
        if training:
            self._drop(hidden)
            self._hidden = hidden
        logits = np.matmul(hidden.transpose(1, 0, 2), top) + top_bias[:, None]
        return np.ascontiguousarray(logits.transpose(1, 2, 0))

    def _drop(self, hidden: np.ndarray) -> None:
        """Drops hidden values, float32 (n, heads, units), and keeps the slope of the others."""
        self._slope = (hidden > 0).astype(np.float32) if self._relu else np.ones_like(hidden)
        for position, (seed, rate) in enumerate(self._dropout):
            if not rate:
                continue
            factor = kept_factor(seed, self.steps, rate, (len(hidden), hidden.shape[2]))
            hidden[:, position] *= factor
            self._slope[:, position] *= factor

    def _backward(self, features: np.ndarray, gradient: np.ndarray, rates: np.ndarray) -> None:
        bias, top, top_bias = self.rest
        by_head = np.ascontiguousarray(gradient.transpose(2, 0, 1))
        back = np.matmul(by_head, top.value.transpose(0, 2, 1)).transpose(1, 0, 2) * self._slope
        by_top = np.matmul(self._hidden.transpose(1, 2, 0), by_head)
        top.step(by_top, rates, self._decay)
        top_bias.step(by_head.sum(axis=1), rates, None)
        flat = np.ascontiguousarray(back).reshape(len(back), -1)
        self.kernel.step_by_product(features, flat, rates, self._decay)
        bias.step(flat.sum(axis=0).reshape(bias.value.shape), rates, None)


def kept_factor(seed: int, step: int, rate: float, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 (*shape): 0 for a dropped value, 1 / (1 - rate) for one that is kept.

    The head's seed and the step decide, so that the numbers do not depend on other heads or on a
    resume.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))
    return (random.random(shape, np.float32) >= rate) * np.float32(1 / (1 - rate))


def make_group(
    members: Sequence[int],
    trials: Sequence[Trial],
    weights: Sequence[Sequence[np.ndarray]],
    objective: Objective,
) -> Group:
    """Returns a group of heads of one structure; takes the arguments of `Group`."""
    kind = MlpGroup if Structure.of(trials[0]).units else LinearGroup
    return kind(members, trials, weights, objective)
