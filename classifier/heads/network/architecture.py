"""Builds heads that have convolutions: by their spelling, or from a file of the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.base.saved import UNREADABLE, fetched, load_saved
from classifier.heads.head import Standard
from classifier.heads.options import Trial
from classifier.heads.spec import HeadSpec
from classifier.runtime import import_keras
from featurestore.errors import UsageError, cause, unknown_choice

if TYPE_CHECKING:
    import keras

KERNEL, POOL = 3, 2
EXAMPLE = "- Conv2D: {filters: 32, kernel_size: 3, activation: relu}"


def check_network(spec: HeadSpec, feature_shape: Sequence[int]) -> None:
    """Refuses a head whose convolutions do not fit the features.

    Raises:
      UsageError: for vectors, and for more blocks than the height and width allow.
    """
    if len(feature_shape) != 3:
        raise UsageError(
            f"--head {spec} has convolutions, and these features are vectors of "
            f"{feature_shape[0]:,} values; extract with --model pixels or --pooling none"
        )
    side = min(feature_shape[:2])
    for number, _ in enumerate(spec.filters):
        side = side // POOL if number else side
        side -= KERNEL - 1
        if side < 1:
            height, width = feature_shape[:2]
            raise UsageError(
                f"--head {spec}: {height}x{width} pixels are too few for {len(spec.filters)} "
                f"blocks, each of a {KERNEL}x{KERNEL} convolution and, but for the last, a pooling "
                f"that halves both sides; give at most {number}"
            )


def build_network(
    trial: Trial,
    feature_shape: Sequence[int],
    n_outputs: int,
    *,
    is_pixels: bool,
    standard: Standard | None = None,
    multi_label: bool = False,
) -> keras.Model:
    """Builds an untrained head with convolutions.

    ``conv:32,64`` is the convnet of chapter 8 of Chollet, "Deep Learning with Python" (2nd
    edition): a 3x3 convolution with relu per block, 2x2 max pooling between blocks, then flatten,
    dropout and one dense layer.

    Args:
      trial: head, seed and penalty.
      feature_shape: of one stored row, (H, W, channels).
      n_outputs: units of the last layer; 1 means a sigmoid, more mean a softmax.
      is_pixels: whether features are pixels, which are divided by 255.
      standard: of other features; None leaves them as they are.
      multi_label: whether each output is a sigmoid of its own.

    Returns:
      A functional model, float32 (n, *feature_shape) -> float32 (n, n_outputs) probabilities.

    Raises:
      UsageError: for a file that is not an architecture of these features.
    """
    keras = import_keras()
    inputs = keras.Input(tuple(feature_shape), dtype="float32", name="features")
    x = inputs
    if is_pixels:
        x = keras.layers.Rescaling(1 / 255, name="rescale")(x)
    elif standard is not None:
        x = _standardise(standard, feature_shape)(x)
    x = _body(trial, n_outputs, x)
    if len(x.shape) > 2:
        x = keras.layers.Flatten(name="flatten")(x)
    if trial.head.dropout:
        x = keras.layers.Dropout(trial.head.dropout, seed=trial.seed, name="dropout")(x)
    x = keras.layers.Dense(n_outputs, name="logits", **_weights(trial, 0))(x)
    kind = "sigmoid" if n_outputs == 1 or multi_label else "softmax"
    return keras.Model(inputs, keras.layers.Activation(kind, name="probabilities")(x), name="head")


def _body(trial: Trial, n_outputs: int, x: Any) -> Any:
    """Returns what the layers before the flattening make of a tensor."""
    layers = import_keras().layers
    if trial.head.file:
        return _file_body(trial, n_outputs, x)
    for number, filters in enumerate(trial.head.filters):
        if number:
            x = layers.MaxPooling2D(POOL, name=f"pool_{number}")(x)
        name, own = f"conv_{number + 1}", _weights(trial, number + 1)
        x = layers.Conv2D(filters, KERNEL, activation="relu", name=name, **own)(x)
    return x


def _weights(trial: Trial, step: int) -> dict[str, Any]:
    keras = import_keras()
    return {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=trial.seed + step),
        "kernel_regularizer": keras.regularizers.L2(trial.l2) if trial.l2 else None,
    }


def _file_body(trial: Trial, n_outputs: int, x: Any) -> Any:
    """Runs the layers of the user's file on a tensor, without a last layer that gives classes.

    The weights are new: they depend on the seed, not on the file.
    """
    keras = import_keras()
    file = trial.head.file
    keras.utils.set_random_seed(trial.seed)
    try:
        with fetched(file, "--head") as path:
            read = _layers_of_yaml if path.suffix in (".yaml", ".yml") else _layers_of_model
            parts = read(path, file)
        last = parts[-1]
        if isinstance(last, keras.layers.Dense) and last.units == n_outputs:
            parts = parts[:-1]
        for layer in parts:
            x = layer.__class__.from_config(layer.get_config())(x)
        return x
    except UNREADABLE as error:
        raise UsageError(
            f"--head {file}: these layers do not fit features of {tuple(x.shape[1:])} "
            f"({cause(error)}); give a sequence of Keras layers, such as '{EXAMPLE}'"
        ) from error


def _layers_of_model(path: Path, label: str) -> list[Any]:
    keras = import_keras()
    model = load_saved(path, label, trust_model=False)
    parts = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    if not isinstance(model, keras.Sequential):
        raise UsageError(
            f"--head {label}: is a {type(model).__name__} model, and a head's layers must follow "
            "one another; save a keras.Sequential"
        )
    return parts


def _layers_of_yaml(path: Path, label: str) -> list[Any]:
    import yaml

    keras = import_keras()
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--head {label}: is not YAML ({cause(error)})") from error
    if not isinstance(record, list) or not record:
        raise UsageError(f"--head {label}: must be a list of Keras layers, such as '{EXAMPLE}'")
    parts = []
    for number, item in enumerate(record, 1):
        (name, settings), *more = item.items() if isinstance(item, dict) else [(item, {})]
        kind = getattr(keras.layers, str(name), None)
        if more or not (isinstance(kind, type) and issubclass(kind, keras.layers.Layer)):
            raise unknown_choice(
                f"--head {label}, layer {number}", str(name), sorted(_layer_names())
            )
        parts.append(kind(**(settings or {})))
    return parts


def _layer_names() -> list[str]:
    layers = import_keras().layers
    kinds = {name: getattr(layers, name) for name in dir(layers)}
    return [
        name
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, layers.Layer)
    ]


def _standardise(standard: Standard, feature_shape: Sequence[int]) -> keras.layers.Normalization:
    """Returns a layer that standardises features of shape (n, *feature_shape)."""
    layer = import_keras().layers.Normalization(axis=-1, name="standardise")
    layer.build((None, *feature_shape))
    # Weights, because arguments would be written out in the model's JSON.
    layer.adapt_mean.assign(standard.mean)
    layer.adapt_variance.assign(np.square(standard.deviation))
    layer.finalize_state()
    return layer
