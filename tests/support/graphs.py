"""Small ONNX graphs with random weights, always the same, and what they give."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH, HEADS, PATCH, SIDE = 16, 2, 8, 32
FREE = ("batch", "channels", "height", "width")


class Maker:
    """Collects the nodes and weights of a graph."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list = []
        self.weights: list = []
        self._random = np.random.default_rng(seed)

    def node(self, kind: str, inputs: list[str], output: str, **settings) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    def constant(self, name: str, values) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, (self._random.normal(size=shape) * 0.2).astype(np.float32))

    def save(self, path: Path, inputs: dict, outputs: dict) -> Path:
        """Writes the graph; a shape's texts are free axes."""
        import onnx
        from onnx import TensorProto, helper

        sides = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
            for side in (inputs.items(), outputs.items())
        ]
        graph = helper.make_graph(self.nodes, "graph", *sides, self.weights)
        opset = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def convolutional(path: Path, shape=FREE, nhwc: bool = False, flat: tuple = ()) -> Path:
    """Two convolutions, (n, 3, H, W) to (n, 8, H / 4, W / 4); or from and to channels last.

    Args:
      path: of the file.
      shape: of the input.
      nhwc: whether both sides have the channels last, as tf2onnx writes them.
      flat: the shape that the maps are brought to at the end.
    """
    make = Maker()
    source, order = "image", [0, 3, 1, 2]
    if nhwc:
        source = make.node("Transpose", ["image"], "first", perm=order)
    first = make.weight("stem.w", 8, 3, 3, 3)
    make.node("Conv", [source, first], "stem", pads=[1, 1, 1, 1], strides=[2, 2])
    make.node("Relu", ["stem"], "stem.relu")
    second = make.weight("top.w", 8, 8, 3, 3)
    make.node("Conv", ["stem.relu", second], "top", pads=[1, 1, 1, 1], strides=[2, 2])
    output = make.node("Relu", ["top"], "maps")
    if nhwc:
        output = make.node("Transpose", ["maps"], "maps.last", perm=[0, 2, 3, 1])
    if flat:
        output = make.node("Reshape", ["maps", make.constant("shape", np.array(flat))], "flat")
    rank = len(flat) or 4
    return make.save(path, {"image": shape}, {output: [f"o{axis}" for axis in range(rank)]})


def transformer(path: Path, mask: bool = False) -> Path:
    """A vision transformer of two blocks for 32x32 pixels: 16 patches and a class token, 16 values.

    Args:
      path: of the file.
      mask: whether it takes a second input, and gives a second output that needs it.
    """
    make = Maker()
    node, constant, weight = make.node, make.constant, make.weight
    node("Conv", ["pixel_values", weight("patch.w", WIDTH, 3, PATCH, PATCH)], "patch",
         strides=[PATCH, PATCH])  # fmt: skip
    node("Reshape", ["patch", constant("rows", np.array([0, WIDTH, -1]))], "patch.flat")
    node("Transpose", ["patch.flat"], "patches", perm=[0, 2, 1])
    node("Shape", ["patches"], "shape", start=0, end=1)
    node("Concat", ["shape", constant("rest", np.array([1, WIDTH]))], "class.shape", axis=0)
    node("Expand", [weight("class.w", 1, 1, WIDTH), "class.shape"], "class")
    node("Concat", ["class", "patches"], "tokens", axis=1)
    x = node("Add", ["tokens", weight("place", 1, (SIDE // PATCH) ** 2 + 1, WIDTH)], "embeddings")
    for block in ("block0", "block1"):
        x = _block(make, block, x)
    last = _norm(make, x, "last_hidden_state")
    inputs = {"pixel_values": FREE}
    outputs = {last: ["batch", "tokens", WIDTH]}
    if mask:
        node("Mul", [last, "mask"], "masked")
        inputs["mask"], outputs["masked"] = ["batch", "tokens", 1], ["batch", "tokens", WIDTH]
    return make.save(path, inputs, outputs)


def _norm(make: Maker, x: str, name: str) -> str:
    ones = make.constant(f"{name}.scale", np.ones(WIDTH, np.float32))
    return make.node("LayerNormalization", [x, ones], name, axis=-1)


def _block(make: Maker, name: str, x: str) -> str:
    node, constant, weight = make.node, make.constant, make.weight
    normed = _norm(make, x, f"{name}.norm1")
    heads = {}
    for side in "qkv":
        y = node("MatMul", [normed, weight(f"{name}.{side}.w", WIDTH, WIDTH)], f"{name}.{side}")
        shape = constant(f"{name}.{side}.shape", np.array([0, -1, HEADS, WIDTH // HEADS]))
        y = node("Reshape", [y, shape], f"{name}.{side}.split")
        order = [0, 2, 3, 1] if side == "k" else [0, 2, 1, 3]
        heads[side] = node("Transpose", [y], f"{name}.{side}.heads", perm=order)
    y = node("MatMul", [heads["q"], heads["k"]], f"{name}.scores")
    y = node("Softmax", [y], f"{name}.attention", axis=-1)
    y = node("MatMul", [y, heads["v"]], f"{name}.mixed")
    y = node("Transpose", [y], f"{name}.turned", perm=[0, 2, 1, 3])
    y = node("Reshape", [y, constant(f"{name}.merge", np.array([0, -1, WIDTH]))], f"{name}.merged")
    y = node("MatMul", [y, weight(f"{name}.o.w", WIDTH, WIDTH)], f"{name}.projected")
    x = node("Add", [x, y], f"{name}.attended")
    y = node("MatMul", [_norm(make, x, f"{name}.norm2"), weight(f"{name}.up", WIDTH, 64)],
             f"{name}.wide")  # fmt: skip
    y = node("Relu", [y], f"{name}.relu")
    y = node("MatMul", [y, weight(f"{name}.down", 64, WIDTH)], f"{name}.narrow")
    return node("Add", [x, y], name)
