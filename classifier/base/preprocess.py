"""The graph around the base: preprocessing before it, pooling after it.

`recognise` finds the preprocessing that a saved model expects, which its file does not record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from classifier.base.families import family_of_layer_names
from classifier.pixels.grey import WEIGHTS
from classifier.runtime import import_keras
from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import POOLINGS, PREPROCESS_MODES

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
      mode: ``none``, ``unit`` (divides by 255), or Keras's ``tf``, ``caffe`` or ``torch``.
      channels: of the base's input; with 1, RGB becomes grey first, see `classifier.pixels.grey`.

    Returns:
      A function from float32 (n, H, W, 3), RGB of 0 to 255, to float32 (n, H, W, channels).

    Raises:
      UsageError: for an unknown mode, or for one that has numbers for each colour and no colours.
    """
    if channels == 1:
        if mode in ("caffe", "torch"):
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
      pooling: ``none``, ``avg`` or ``max``.
      rank: number of axes of the base's output, including the batch.

    Returns:
      A function from a tensor of that rank to float32 (n, channels); ``none`` changes nothing.

    Raises:
      UsageError: for an unknown pooling, or when there is nothing to pool.
    """
    if pooling not in POOLINGS:
        raise unknown_choice("--pooling", pooling, POOLINGS)
    if pooling == "none":
        return lambda features: features
    if rank < 3:
        raise UsageError(
            f"--pooling {pooling} needs a feature map, but the chosen layer's output is already "
            "flat (one vector per image); use --pooling none, or cut at an earlier --layer"
        )
    axes = list(range(1, rank - 1))

    keras = import_keras()
    pool = keras.ops.mean if pooling == "avg" else keras.ops.max
    return lambda features: pool(features, axis=axes)


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
