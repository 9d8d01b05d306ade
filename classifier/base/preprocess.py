"""The graph around the base: preprocessing before it, pooling after it.

`recognise` finds the preprocessing that a saved model expects, which its file does not record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from classifier.base.families import family_of_layer_names
from classifier.graphs.pooling import GEM_LEAST, GEM_POWER, require_pooling
from classifier.graphs.scaling import scaling_of
from classifier.pixels.grey import WEIGHTS
from classifier.runtime import import_keras
from featurestore.errors import UsageError, unknown_choice
from featurestore.fields import SCALED
from featurestore.spec import PREPROCESS_MODES

if TYPE_CHECKING:
    import keras

# Layers and operations that scale or shift pixels. Before the first convolution they mean that the
# file does its own preprocessing; `preprocess_input(inputs)` in a functional model becomes the
# arithmetic ones.
_SCALING = frozenset(
    {
        "Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add",
        "TrueDivision",
    }
)  # fmt: skip
_CONVOLVING = frozenset(
    {"Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Dense", "Conv2DTranspose"}
)


def preprocess_graph(mode: str, channels: int = 3) -> Callable[[Any], Any]:
    """Returns the preprocessing of `mode`, for use in a graph.

    Args:
      mode: ``none``, ``unit`` (divides by 255), Keras's ``tf``, ``caffe`` or ``torch``, or the
        numbers of another, see `classifier.graphs.scaling`.
      channels: of the base's input; with 1, RGB becomes grey first, see `classifier.pixels.grey`.

    Returns:
      A function from float32 (n, H, W, 3), RGB of 0 to 255, to float32 (n, H, W, channels).

    Raises:
      UsageError: for an unknown mode, or for one that has numbers for each colour and no colours.
    """
    if channels == 1:
        if mode in ("caffe", "torch") or mode.startswith(SCALED):
            raise UsageError(
                f"--preprocess {mode} is for colours, and this base takes one channel; use none, "
                "unit (0 to 1) or tf (-1 to 1)"
            )
        scale = preprocess_graph(mode)
        return lambda pixels: scale(_grey(pixels))
    if mode == "none":
        return lambda pixels: pixels
    if mode == "unit":
        return lambda pixels: pixels / 255.0
    if mode.startswith(SCALED):
        scaling = scaling_of(mode)
        return lambda pixels: (pixels - list(scaling.mean)) / list(scaling.deviation)
    if mode not in PREPROCESS_MODES:
        raise unknown_choice("--preprocess", mode, PREPROCESS_MODES)

    keras = import_keras()
    # Keras's own function, so that its constants and its order of operations are not copied.
    return lambda pixels: keras.applications.imagenet_utils.preprocess_input(
        pixels, data_format="channels_last", mode=mode
    )


def _grey(pixels: Any) -> Any:
    """Maps float32 (n, H, W, 3) of whole levels to (n, H, W, 1), as `to_grey` does."""
    ops = import_keras().ops
    # Fractions of 16 bits and sums below 256: float32 holds every step exactly, in any order. Whole
    # numbers would be as exact, but overflow where an engine computes in float16.
    red, green, blue = (
        pixels[..., channel : channel + 1] * (weight / 65536)
        for channel, weight in enumerate(WEIGHTS)
    )
    return ops.floor(red + green + blue + 0.5)


def pool_graph(pooling: str, rank: int) -> Callable[[Any], Any]:
    """Returns the pooling over all axes except the batch and the channels.

    Args:
      pooling: a name of `POOLINGS`.
      rank: number of axes of the base's output, including the batch.

    Returns:
      A function from a tensor of that rank to float32 (n, channels); ``none`` changes nothing.

    Raises:
      UsageError: for an unknown pooling, or when there is nothing to pool.
    """
    require_pooling(pooling, rank)
    if pooling == "none":
        return lambda features: features
    if pooling == "cls":
        return lambda tokens: tokens[:, 0]
    axes = list(range(1, rank - 1))
    ops = import_keras().ops
    if pooling == "mean-patch":
        return lambda tokens: ops.mean(tokens[:, 1:], axis=axes)
    if pooling == "gem":
        return lambda features: _generalised_mean(features, axes)
    pool = ops.max if pooling == "max" else ops.mean
    return lambda features: pool(features, axis=axes)


def _generalised_mean(features: Any, axes: list[int]) -> Any:
    ops = import_keras().ops
    features = ops.maximum(features, GEM_LEAST)
    # Divided by the largest, so that cubes do not overflow in float16.
    most = ops.max(features, axis=axes, keepdims=True)
    mean = ops.mean((features / most) ** GEM_POWER, axis=axes, keepdims=True)
    return ops.squeeze(most * mean ** (1 / GEM_POWER), axis=axes)


def pooled_shape(output_shape: tuple[int, ...], pooling: str) -> tuple[int, ...]:
    """Returns the shape of one pooled row, given the shape of one row before pooling."""
    pool_graph(pooling, len(output_shape) + 1)
    return output_shape if pooling == "none" else output_shape[-1:]


def operations(model: keras.Model) -> Iterator[Any]:
    """Yields every layer and operation of `model` in order, each nested model before its own."""
    for operation in getattr(model, "operations", None) or model.layers:
        yield operation
        if hasattr(operation, "layers"):
            yield from operations(operation)


def recognise(model: keras.Model) -> tuple[str, str] | None:
    """Finds the preprocessing that a saved base expects.

    Args:
      model: the base, cut or whole.

    Returns:
      (mode, reason for the user), or None when it is unknown.
    """
    names = []
    scaled_by = None
    convolved = False
    for operation in operations(model):
        names.append(operation.name)
        kind = type(operation).__name__
        convolved = convolved or kind in _CONVOLVING
        if not convolved and kind in _SCALING and scaled_by is None:
            scaled_by = operation.name
    if scaled_by:
        return "none", f"the file does it itself, in layer {scaled_by!r}"
    family = family_of_layer_names(model.name, names)
    # Families of mode "none" preprocess inside. A copy without the scaling layer was built with
    # include_preprocessing=False, and its file does not show how its pixels were prepared.
    if family is None or family[1] == "none":
        return None
    return family[1], f"recognised as {family[0]} by the names of its layers"
