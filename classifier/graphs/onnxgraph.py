"""One ONNX graph from pixels to features, for ONNX Runtime.

It gets what `classifier.graphs.network` gives OpenVINO: preprocessing before the exported network,
the layout and the pooling of features behind it. All operations that are added mean the same in
every version of ONNX from 8 on; newer ones changed those that reduce over axes, so pooling is that
of whole images. OpenVINO has read the graph before, and says where it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifier.graphs.input import FIRST, LAST, TO_FIRST, TO_LAST
from classifier.graphs.network import Network, Tensor
from classifier.graphs.pooling import GEM_LEAST, GEM_POWER, TOKEN_POOLINGS
from classifier.graphs.scaling import Scaling
from classifier.runtime import import_onnx
from featurestore.errors import UsageError

PIXELS = "hoarfrost/pixels"
# Slice takes its bounds as inputs from here on, and as attributes before.
_SLICE_INPUTS = 10


def feature_graph(
    path: Path, network: Network, scaling: Scaling, taps: Sequence[tuple[str, str]]
) -> Any:
    """Reads an ONNX file as a graph from pixels to features.

    Args:
      path: of a local file. Weights in other files stay there.
      network: the same graph in OpenVINO.
      scaling: of the pixels.
      taps: the tensor to cut at and the pooling of each output, which `Network.features` took.

    Returns:
      An `onnx.ModelProto` from uint8 (n, H, W, 3) to float32 (n, \\*feature_shape) of each tap.

    Raises:
      UsageError: where OpenVINO's name of a tensor or of the input is not in the file.
    """
    onnx = import_onnx()
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    image = next((each for each in graph.input if each.name in network.input_names), None)
    layers = [(network.layer(layer), pooling) for layer, pooling in taps]
    made = {name for node in graph.node for name in node.output}
    if image is None or not all(tensor.name in made for tensor, _ in layers):
        raise UsageError(
            f"--engine onnxruntime: {path.name!r} has other names for its input or for one of "
            f"{', '.join(tensor.name for tensor, _ in layers)} than OpenVINO read; use --engine "
            "openvino"
        )
    version = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    more = _Nodes(onnx, version)
    more.prepare(image, network.layout, scaling)
    before = len(more.nodes)
    outputs = [more.features(tensor, pooling) for tensor, pooling in layers]
    kept = list(_needed(graph.node, {tensor.name for tensor, _ in layers}))
    nodes = [*more.nodes[:before], *kept, *more.nodes[before:]]
    height, width = network.image_size
    value, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    for field, content in (
        (graph.node, nodes),
        (graph.input, [value(PIXELS, types.UINT8, ["n", height, width, 3])]),
        (graph.output, [value(name, types.FLOAT, None) for name in outputs]),
        (graph.initializer, [*graph.initializer, *more.constants]),
    ):
        content = list(content)
        del field[:]
        field.extend(content)
    return model


def _needed(nodes: Sequence[Any], wanted: set[str]) -> Iterator[Any]:
    """Returns the nodes that some tensors need, in order; other ones may need more inputs."""
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted |= _taken(node)
            kept.append(node)
    return reversed(kept)


def _taken(node: Any) -> set[str]:
    """Returns the tensors that a node takes, also inside the bodies of its loops and branches."""
    names = set(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                names |= _taken(inner)
            names |= {output.name for output in body.output}
    return names


class _Nodes:
    """Collects nodes and constants that are added to a graph.

    Args:
      onnx: the package.
      version: of the operations, as the graph says.
    """

    def __init__(self, onnx: Any, version: int) -> None:
        self._onnx, self._version = onnx, version
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def prepare(self, image: Any, layout: str, scaling: Scaling) -> None:
        """Adds the preprocessing, which ends at the tensor that was the graph's input."""
        x = self._cast(PIXELS, self._onnx.TensorProto.FLOAT)
        if scaling.reverses:
            x = self._add("Gather", x, np.array([2, 1, 0]), axis=3)
        if any(scaling.mean):
            x = self._add("Sub", x, np.array(scaling.mean, np.float32))
        if set(scaling.deviation) != {1.0}:
            x = self._add("Div", x, np.array(scaling.deviation, np.float32))
        if layout == FIRST:
            x = self._add("Transpose", x, perm=TO_FIRST)
        x = self._cast(x, image.type.tensor_type.elem_type)
        self.nodes[-1].output[0] = image.name

    def features(self, tensor: Tensor, pooling: str) -> str:
        """Adds the pooling of a tensor; returns the name of its features."""
        x = self._cast(tensor.name, self._onnx.TensorProto.FLOAT)
        if pooling == "none":
            return self._add("Transpose", x, perm=TO_LAST) if tensor.layout == FIRST else x
        if pooling == "cls":
            return self._add("Gather", x, np.array(0), axis=1)
        if pooling == "mean-patch":
            x = self._without_first(x)
        if tensor.layout != FIRST:
            # Pooling over whole images is defined for channels first.
            x = self._add("Transpose", x, perm=TO_FIRST if tensor.layout == LAST else [0, 2, 1])
        if pooling == "gem":
            return self._flat(self._gem(x))
        mean = pooling == "avg" or pooling in TOKEN_POOLINGS
        return self._flat(self._add("GlobalAveragePool" if mean else "GlobalMaxPool", x))

    def _gem(self, x: str) -> str:
        x = self._add("Max", x, np.array(GEM_LEAST, np.float32))
        most = self._add("GlobalMaxPool", x)
        power = self._add("Pow", self._add("Div", x, most), np.array(GEM_POWER, np.float32))
        mean = self._add("GlobalAveragePool", power)
        return self._add("Mul", self._add("Pow", mean, np.array(1 / GEM_POWER, np.float32)), most)

    def _without_first(self, x: str) -> str:
        bounds = {"starts": [1], "ends": [np.iinfo(np.int64).max], "axes": [1]}
        if self._version < _SLICE_INPUTS:
            return self._add("Slice", x, **bounds)
        return self._add("Slice", x, *map(np.array, bounds.values()))

    def _flat(self, x: str) -> str:
        return self._add("Flatten", x, axis=1)

    def _cast(self, x: str, kind: int) -> str:
        return self._add("Cast", x, to=kind)

    def _add(self, operation: str, *inputs: str | np.ndarray, **settings: Any) -> str:
        """Adds a node and the constants that it takes; returns the name of its output."""
        names = []
        for each in inputs:
            if isinstance(each, np.ndarray):
                name = f"hoarfrost/constant{len(self.constants)}"
                self.constants.append(self._onnx.numpy_helper.from_array(each, name))
                each = name
            names.append(each)
        output = f"hoarfrost/{operation}{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operation, names, [output], **settings))
        return output
