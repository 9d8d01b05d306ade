"""One OpenVINO graph from pixels to features: preprocessing, an exported network, and pooling.

An exported network takes NCHW or NHWC, and its feature maps have either layout. Features are always
stored channels-last, like those of every other base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.graphs.files import GraphFiles, reason
from classifier.graphs.input import (
    FIRST,
    TO_LAST,
    image_input,
    layouts,
    own_size,
    replace_input,
)
from classifier.graphs.layout import layout_of
from classifier.graphs.pooling import pool, require_pooling
from classifier.graphs.scaling import Scaling
from classifier.runtime import import_openvino
from featurestore.errors import UsageError, did_you_mean
from featurestore.fields import tap_name

# Stands for a graph's one output, whatever its name is, as it does for networks of Keras.
OUTPUT = "output"
# A graph is measured with so many images: an axis of this length is that of the images.
_IMAGES = 7


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph.

    Attributes:
      name: in the graph; further names of the same tensor follow in `aliases`.
      aliases: its other names.
      operation: what computes it.
      shape: of one image's values, channels last; () where it has no fixed one.
      obstacle: why it cannot be a layer, or "".
      layout: of a map in the graph, NCHW or NHWC; "" of other tensors.
    """

    name: str
    aliases: tuple[str, ...]
    operation: str
    shape: tuple[int, ...]
    obstacle: str = ""
    layout: str = ""


class Network:
    """An exported network on pixels of one size.

    Args:
      files: of the graph.
      image_size: (height, width) in pixels; None for the graph's own.
      scaling: of the pixels.

    Attributes:
      image_size: (height, width) in pixels.
      layout: of the network's input, ``NCHW`` or ``NHWC``.
      input_names: of that input in the file.

    Raises:
      UsageError: for a graph without an image input, or one that cannot take this size.
    """

    def __init__(
        self, files: GraphFiles, image_size: tuple[int, int] | None, scaling: Scaling
    ) -> None:
        self._name = files.name
        problems: list[RuntimeError] = []
        model = files.open()
        for layout in layouts(image_input(model, files.name)):
            # A graph that was changed cannot be used again.
            model = files.open() if problems else model
            image = image_input(model, files.name)
            self.layout, self.input_names = layout, image.output(0).get_names()
            self.image_size = image_size or own_size(image, layout, files.name)
            self._outputs = [result.input_value(0) for result in model.get_results()]
            try:
                self._pixels = replace_input(image, self.image_size, layout, scaling)
                model.add_parameters([self._pixels])
                model.remove_parameter(image)
                model.validate_nodes_and_infer_types()
            except RuntimeError as error:
                problems.append(error)
                continue
            self._model = model
            self._fix_images()
            return
        height, width = self.image_size
        raise UsageError(
            f"--image_size: {files.name!r} cannot take images of {height}x{width} "
            f"({reason(problems[0])}); give the size that it was exported for, or export "
            "it with free axes"
        )

    def _fix_images(self) -> None:
        """Fixes the number of images, so that the shapes of all tensors are known."""
        shape = [_IMAGES, *self.image_size, 3]
        try:
            self._model.reshape({self._pixels.output(0): shape})
        except RuntimeError as error:
            raise UsageError(
                f"--model: {self._name!r} was exported for a fixed number of images "
                f"({reason(error)}); export it again with a free first axis"
            ) from error

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs, in order."""
        return [min(output.get_names(), default="?") for output in self._outputs]

    def tensors(self) -> list[Tensor]:
        """Returns the named tensors that depend on the image, in the order of computation."""
        return [self._describe(output) for output in self._reached()]

    def _reached(self) -> Iterator[Any]:
        """Yields the named outputs that depend on the image."""
        reached = {self._pixels.get_name()}
        constants = {"Parameter", "Constant", "Result"}
        for operation in self._model.get_ordered_ops():
            sources = [value.get_node().get_name() for value in operation.input_values()]
            if reached.isdisjoint(sources) or operation.get_type_name() in constants:
                continue
            reached.add(operation.get_name())
            yield from (output for output in operation.outputs() if output.get_names())

    def _describe(self, output: Any) -> Tensor:
        name, *aliases = sorted(output.get_names()) or ["?"]
        kind = output.get_node().get_type_name()
        shape, obstacle = self._shape(output)
        if obstacle or len(shape) != 3:
            return Tensor(name, tuple(aliases), kind, shape, obstacle)
        layout = layout_of(output, self._pixels.get_name())
        if layout is None:
            obstacle = "no convolution says which axis is that of the channels"
        elif layout == FIRST:
            shape = (*shape[1:], shape[0])
        return Tensor(name, tuple(aliases), kind, shape, obstacle, layout or "")

    def _shape(self, output: Any) -> tuple[tuple[int, ...], str]:
        """Returns (shape of one row in the graph's order, why it cannot be a layer or "")."""
        partial = output.get_partial_shape()
        if partial.is_dynamic:
            return (), "no fixed shape"
        images, *rest = tuple(partial.to_shape()) or (0,)
        shape = tuple(rest)
        if images != _IMAGES:
            return shape, "the first axis is not that of the images"
        if not output.get_element_type().is_real():
            return shape, f"values of {output.get_element_type().get_type_name()}"
        if len(shape) not in (1, 2, 3):
            return shape, f"{len(shape)} axes"
        return shape, ""

    def layer(self, asked: str) -> Tensor:
        """Finds the tensor to cut at.

        Args:
          asked: its name; "" or ``output`` for the graph's one output.

        Raises:
          UsageError: for an unknown name, one that cannot be a layer, and several outputs.
        """
        return self._describe(self._find(asked))

    def _find(self, asked: str) -> Any:
        listing = f"python -m classifier.bases {self._name}"
        known = list(self._reached())
        named = {name: output for output in known for name in output.get_names()}
        if asked == OUTPUT and OUTPUT not in named:
            asked = ""
        if not asked and len(self._outputs) != 1:
            raise UsageError(
                f"--layer: {self._name!r} has {len(self._outputs)} outputs; choose one of "
                f"{', '.join(self.outputs)}, or any other tensor ({listing})"
            )
        if asked and asked not in named:
            raise UsageError(
                f"--layer: {self._name!r} has no tensor {asked!r}"
                f"{did_you_mean(asked, list(named))} (all {len(known)}: {listing})"
            )
        found = named[asked] if asked else self._outputs[0]
        tensor = self._describe(found)
        if tensor.obstacle:
            name = asked or tensor.name
            raise UsageError(
                f"--layer: {name!r} of {self._name!r} cannot be features: {tensor.obstacle}; "
                f"{listing} "
                "marks those that can. A graph with a fixed number of images is exported again "
                "with a free first axis"
            )
        return found

    def features(self, taps: Sequence[tuple[str, str]]) -> Any:
        """Returns the graph from pixels to features; to be called once.

        Args:
          taps: the tensor to cut at, and its pooling; several are computed in one pass.

        Returns:
          An `openvino.Model` from uint8 (n, H, W, 3) to float32 (n, \\*feature_shape); with an
          output for each tap, of its name.

        Raises:
          UsageError: for a layer or a pooling that does not fit, and for a layer that needs more
            than the image.
        """
        openvino = import_openvino()
        outputs = [self._pooled(*tap) for tap in taps]
        if len(outputs) > 1:
            outputs = [_copied(openvino.opset13, output) for output in outputs]
        results = [openvino.opset13.result(output) for output in outputs]
        for result, tap in zip(results, taps, strict=True):
            result.set_friendly_name(tap_name(*tap))
        model = openvino.Model(results, [self._pixels], "features")
        model.reshape([-1, *self.image_size, 3])
        return model

    def _pooled(self, asked: str, pooling: str) -> Any:
        """Returns the node of a tap: float32, channels last, pooled."""
        ops = import_openvino().opset13
        found = self._find(asked)
        self._require_only_pixels(found.get_node(), asked)
        rank = len(found.get_partial_shape())
        require_pooling(pooling, rank)
        x = ops.convert(found, "f32")
        if self._describe(found).layout == FIRST:
            x = ops.transpose(x, np.array(TO_LAST))
        return pool(ops, x, pooling, list(range(1, rank - 1)))

    def _require_only_pixels(self, node: Any, asked: str) -> None:
        waiting, seen = [node], set()
        for one in waiting:
            if one.get_name() in seen:
                continue
            seen.add(one.get_name())
            waiting += [value.get_node() for value in one.input_values()]
            if one.get_type_name() == "Parameter" and one.get_name() != self._pixels.get_name():
                raise UsageError(
                    f"--layer: {asked or 'the output'} of {self._name!r} needs the input "
                    f"{one.get_friendly_name()!r} beside the image; choose a tensor that is "
                    "computed from the image alone"
                )


def _copied(ops: Any, x: Any) -> Any:
    """Adds an operation that changes nothing, and gives its output a memory of its own.

    OpenVINO 2026.4 lets the transposed output of a convolution and a concatenation behind the same
    convolution write into one memory: the tokens of a vision transformer beside its patches were
    other numbers than alone.
    """
    return ops.roll(x, np.array([0]), np.array([0]))
