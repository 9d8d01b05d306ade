"""The layout of a feature map, found by a walk back through the graph that computes it.

The walk ends at the operation that decides the layout: a convolution gives NCHW, and a
transposition turns one layout into the other.
"""

from __future__ import annotations

from typing import Any

from classifier.graphs.input import FIRST, LAST, TO_FIRST, TO_LAST

# These take and give channels first, by the definition of ONNX and OpenVINO.
_CHANNELS_FIRST = frozenset(
    {
        "Convolution", "GroupConvolution", "ConvolutionBackpropData",
        "GroupConvolutionBackpropData", "MaxPool", "AvgPool", "AdaptiveAvgPool",
        "AdaptiveMaxPool", "DeformableConvolution", "DepthToSpace", "SpaceToDepth",
        "BatchNormInference",
    }
)  # fmt: skip
# The layout behind these is not that of what they take.
_REARRANGES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Transpose"})


def layout_of(output: Any, pixels: str) -> str | None:
    """Returns the layout of a map, or None if nothing decides it.

    Args:
      output: of an OpenVINO graph, with four axes.
      pixels: the name of the node of the image, which is NHWC.
    """
    waiting, seen = [output], set()
    for value in waiting:
        node = value.get_node()
        kind, name = node.get_type_name(), node.get_name()
        if kind in _CHANNELS_FIRST:
            return FIRST
        if name == pixels:
            return LAST
        if kind == "Transpose" and (turned := _turned(node, pixels)):
            return turned
        if kind in _REARRANGES or name in seen:
            continue
        seen.add(name)
        maps = [one for one in node.input_values() if _rank(one) == 4]
        # A product of two maps, as in attention, has axes of both.
        waiting += [] if kind == "MatMul" and len(maps) > 1 else maps
    return None


def _turned(transpose: Any, pixels: str) -> str | None:
    """Returns the layout behind a transposition that turns one into the other."""
    order = transpose.input_value(1).get_node()
    turned = order.get_data().tolist() if hasattr(order, "get_data") else None
    if turned not in (TO_LAST, TO_FIRST):
        return None
    before, behind = (FIRST, LAST) if turned == TO_LAST else (LAST, FIRST)
    return behind if layout_of(transpose.input_value(0), pixels) == before else None


def _rank(value: Any) -> int:
    """Returns the number of axes; 0 where it is not known."""
    rank = value.get_partial_shape().rank
    return rank.get_length() if rank.is_static else 0
