"""Heads: small Keras classifiers on stored features, and the flag that names one.

A head takes features as they are stored, standardises each channel with statistics of the training
rows (part of the head, so that evaluation and prediction cannot forget them), flattens a map,
and ends in probabilities: one sigmoid unit for two classes, else a softmax.

Training and evaluation use the layer below the probabilities (`logits_model`): a cross entropy of
logits stays exact where a probability has long rounded to 0 or 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.heads.exactspec import EXACT, ExactSpec, parse_exact
from classifier.runtime import import_keras
from featurestore.errors import UsageError, unknown_choice
from featurestore.units import shortest

if TYPE_CHECKING:
    import keras

KINDS = ("linear", "mlp:UNITS", "ridge", "logistic", "knn:K")
ACTIVATIONS = ("relu", "linear")
# Dividing by the deviation of a channel that hardly moves in training would blow up any small shift
# at prediction; the least divisor is a tenth of the root mean square deviation.
LEAST_RELATIVE_DEVIATION = 0.1


@dataclass(frozen=True)
class HeadSpec:
    """What a head is made of, as `--head` spells it.

    Attributes:
      units: of the hidden layer; 0 for a linear head.
      activation: of the hidden layer.
      dropout: fraction of hidden values dropped in training.
    """

    units: int = 0
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.units <= 1 << 20:
            raise UsageError(f"--head: units must be 1 to 1048576, got {self.units}")
        if self.activation not in ACTIVATIONS:
            raise unknown_choice("--head: activation", self.activation, ACTIVATIONS)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--head: dropout must be from 0 to below 1, got {self.dropout}")

    def __str__(self) -> str:
        if not self.units:
            return "linear"
        dropout = f":dropout={shortest(self.dropout)}" if self.dropout else ""
        return f"mlp:{self.units}:{self.activation}{dropout}"

    @property
    def slug(self) -> str:
        """The spelling as a file name, such as ``mlp-256-relu-dropout0.5``."""
        return str(self).replace(":", "-").replace("=", "")


@dataclass(frozen=True)
class Standard:
    """What a head subtracts from and divides features by.

    Attributes:
      mean: float32 (channels,).
      deviation: float32 (channels,), all positive.
    """

    mean: np.ndarray
    deviation: np.ndarray


class Moments:
    """The running mean and deviation of each channel over batches of features.

    Batches are merged by Chan et al., "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979), which does not cancel as a sum of squares does.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._square = np.zeros(channels)

    def update(self, features: np.ndarray) -> None:
        """Takes in features of any float dtype (n, ..., channels)."""
        values = features.reshape(-1, features.shape[-1])
        if not len(values):
            return
        mean = values.mean(axis=0, dtype=np.float64)
        square = values.var(axis=0, dtype=np.float64) * len(values)
        total = self._count + len(values)
        step = mean - self._mean
        self._mean += step * len(values) / total
        self._square += square + step**2 * self._count * len(values) / total
        self._count = total

    def standard(self) -> Standard:
        """Returns the statistics, every deviation lifted to a tenth of their root mean square."""
        return standard_of(self._mean, self._square / max(self._count, 1))


def standard_of(mean: np.ndarray, variance: np.ndarray) -> Standard:
    """Returns what to standardise by; see `LEAST_RELATIVE_DEVIATION` for its least deviation.

    Args:
      mean: float64 (channels,).
      variance: float64 (channels,).
    """
    typical = math.sqrt(variance.mean())
    floor = LEAST_RELATIVE_DEVIATION * typical if typical > 0 else 1.0
    deviation = np.maximum(np.sqrt(variance), floor)
    return Standard(mean.astype(np.float32), deviation.astype(np.float32))


def parse_head(text: str) -> HeadSpec | ExactSpec:
    """Reads one `--head`.

    Args:
      text: ``linear``, ``mlp:UNITS[:relu|linear][:dropout=P]``, ``ridge[:l2=L,L]``,
        ``logistic[:l2=L,L]`` or ``knn:K[:cosine|euclidean][:weighted|majority]``.

    Raises:
      UsageError: naming the part that is not understood.

    Example:
      >>> parse_head("mlp:256:dropout=0.5")
      HeadSpec(units=256, activation='relu', dropout=0.5)
      >>> str(parse_head("mlp:256:linear"))
      'mlp:256:linear'
    """
    kind, *options = text.split(":")
    if kind in EXACT:
        return parse_exact(kind, options, text)
    if kind not in ("linear", "mlp"):
        raise unknown_choice("--head", kind, KINDS)
    if kind == "linear":
        if options:
            raise UsageError(f"--head: linear takes no options, got {text!r}; mlp:UNITS does")
        return HeadSpec()
    if not options or not re.fullmatch(r"[1-9][0-9]{0,6}", options[0]):
        raise UsageError(f"--head: mlp needs its number of units, such as mlp:256, got {text!r}")
    settings: dict[str, Any] = {"units": int(options[0])}
    for option in options[1:]:
        name, equals, value = option.partition("=")
        setting = "dropout" if equals else "activation"
        if setting in settings:
            raise UsageError(f"--head: {setting} is given twice in {text!r}")
        if not equals and name not in ACTIVATIONS:
            raise unknown_choice(f"--head: {text!r}", name, (*ACTIVATIONS, "dropout=P"))
        if equals and name != "dropout":
            raise unknown_choice(f"--head: {text!r}", name, ("dropout",))
        settings[setting] = _fraction(value, text) if equals else name
    return HeadSpec(**settings)


def _fraction(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"--head: dropout must be a number, got {value!r} in {text!r}") from None


def outputs_for(classes: Sequence[str], multi_label: bool = False) -> int:
    """Returns the number of output units: 1 for two classes of which each row has one, else one a
    class.

    Raises:
      UsageError: for fewer than two classes.
    """
    if len(classes) < 2:
        raise UsageError(
            f"a head needs at least 2 classes, the training rows have {len(classes)}"
            f"{': ' + repr(classes[0]) if classes else ''}; add images of another class, or labels"
        )
    return 1 if len(classes) == 2 and not multi_label else len(classes)


def build_head(
    spec: HeadSpec,
    feature_shape: Sequence[int],
    n_outputs: int,
    seed: int,
    *,
    standard: Standard | None = None,
    multi_label: bool = False,
) -> keras.Model:
    """Builds an untrained head.

    Args:
      spec: of the head.
      feature_shape: of one stored row, such as (5, 5, 512) or (1280,).
      n_outputs: units of the last layer; 1 means a sigmoid, more a softmax.
      seed: of the initial weights and of dropout.
      standard: statistics per channel; None leaves features as they are.
      multi_label: whether each output is a sigmoid of its own.

    Returns:
      A functional model, float32 (n, *feature_shape) -> float32 (n, n_outputs) probabilities.
    """
    keras = import_keras()
    layers = keras.layers

    def dense(units: int, name: str, step: int):
        return layers.Dense(
            units,
            name=name,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed + step),
        )

    inputs = layers.Input(tuple(feature_shape), dtype="float32", name="features")
    x = inputs
    if standard is not None:
        x = standardise(standard, feature_shape)(x)
    if len(feature_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    if spec.units:
        x = dense(spec.units, "hidden", 1)(x)
        if spec.activation != "linear":
            x = layers.Activation(spec.activation, name=spec.activation)(x)
        if spec.dropout:
            x = layers.Dropout(spec.dropout, seed=seed, name="dropout")(x)
    x = dense(n_outputs, "logits", 2)(x)
    kind = "sigmoid" if n_outputs == 1 or multi_label else "softmax"
    return keras.Model(inputs, layers.Activation(kind, name="probabilities")(x), name="head")


def standardise(standard: Standard, feature_shape: Sequence[int]) -> keras.layers.Normalization:
    """Returns a layer that standardises features of a shape."""
    layer = import_keras().layers.Normalization(axis=-1, name="standardise")
    layer.build((None, *feature_shape))
    # As weights and not as arguments: arguments would be spelled out in the model's JSON.
    layer.adapt_mean.assign(standard.mean)
    layer.adapt_variance.assign(np.square(standard.deviation))
    layer.finalize_state()
    return layer


def logits_model(head: keras.Model) -> keras.Model:
    """Returns the head without its last activation; the weights are shared, not copied."""
    keras = import_keras()
    return keras.Model(head.inputs[0], head.get_layer("probabilities").input, name="logits")
