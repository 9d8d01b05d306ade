"""The image input of an exported network: which one, its layout, its size, what goes before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from classifier.graphs.scaling import Scaling
from classifier.runtime import import_openvino
from featurestore.errors import UsageError

FIRST, LAST = "NCHW", "NHWC"
# The orders of transpositions to the one and to the other.
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def image_input(model: Any, name: str) -> Any:
    """Returns the node of the one input that takes images."""
    fitting = [node for node in model.get_parameters() if layouts(node)]
    if len(fitting) != 1:
        shapes = [f"{node.get_friendly_name()} {node.get_partial_shape()}" for node in
                  model.get_parameters()]  # fmt: skip
        raise UsageError(
            f"--model: {name!r} has {len(fitting) or 'no'} inputs for images of three channels, "
            f"(n, 3, height, width) or (n, height, width, 3), and needs one; its inputs are "
            f"{', '.join(shapes) or 'none'}"
        )
    return fitting[0]


def layouts(node: Any) -> list[str]:
    """Returns the layouts that an input can have, the likelier first; [] if it takes no image."""
    shape = node.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4:
        return []
    sides = [axis.get_length() if axis.is_static else None for axis in shape]
    # PyTorch exports NCHW, sometimes with no axis fixed; a wrong guess does not fit the weights.
    if sides[1] == 3 or sides[3] == 3:
        return [FIRST if sides[1] == 3 else LAST]
    return [FIRST, LAST] if None in (sides[1], sides[3]) else []


def own_size(node: Any, layout: str, name: str) -> tuple[int, int]:
    axes = list(node.get_partial_shape())
    height, width = axes[2:] if layout == FIRST else axes[1:3]
    if height.is_dynamic or width.is_dynamic:
        raise UsageError(
            f"--image_size: {name!r} takes images of any size; give the one that it was trained "
            "with, such as --image_size 224"
        )
    return height.get_length(), width.get_length()


def replace_input(image: Any, image_size: tuple[int, int], layout: str, scaling: Scaling) -> Any:
    """Puts a uint8 (n, H, W, 3) input and its preprocessing before a network; returns the input."""
    openvino = import_openvino()
    ops = openvino.opset13
    pixels = ops.parameter([-1, *image_size, 3], np.uint8, name="pixels")
    x = ops.convert(pixels, "f32")
    if scaling.reverses:
        x = ops.gather(x, np.array([2, 1, 0]), np.array(3))
    if any(scaling.mean):
        x = ops.subtract(x, np.array(scaling.mean, np.float32))
    if set(scaling.deviation) != {1.0}:
        x = ops.divide(x, np.array(scaling.deviation, np.float32))
    if layout == FIRST:
        x = ops.transpose(x, np.array(TO_FIRST))
    if image.get_element_type() != openvino.Type.f32:
        x = ops.convert(x, image.get_element_type().get_type_name())
    for target in image.output(0).get_target_inputs():
        target.replace_source_output(x.output(0))
    return pixels
