"""Cuts a network at any layer, also inside nested models and at another input size.

A cut runs the same layer objects, with the same weights, on a new input of the wanted size. This
covers a fixed input size, a nested model (whose input first passes outer layers such as Rescaling)
and a cut inside a nested model. Layers are not copied, so features equal those of the whole model.
A nested model that accepts the new shapes is called unchanged, with all its arguments; otherwise
its layers are run on the new shapes too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras


def is_model(layer: Any) -> bool:
    """Returns whether a layer is itself a network."""
    return isinstance(layer, import_keras().Model)


def cut(model: keras.Model, names: tuple[str, ...], image_size: tuple[int, int]) -> keras.Model:
    """Builds the network from a new image input to the output of one layer.

    Args:
      model: a functional or sequential network with one image input.
      names: the path of the layer that `layers.find_layer` returns, outermost name first; () for
        the network's own output, of which it has one.
      image_size: (height, width) in pixels.

    Returns:
      A model from float32 (n, H, W, 3) to that layer's output; from (n, H, W, 1) if `model` takes
      one channel. It shares the weights of `model`.

    Raises:
      UsageError: when the layer has no single output.
      ValueError: from Keras, when a layer does not accept that size.
    """
    keras = import_keras()
    image = image_input(model, image_size)
    (output,) = keras.tree.flatten(Rerun().apply(model, [image], names))
    return keras.Model(image, output, name=graph_name(model.name))


def image_input(model: keras.Model, image_size: tuple[int, int]) -> keras.KerasTensor:
    """Returns a new input for images of a network, whose name no layer has."""
    name = "image"
    while any(layer.name == name for layer in model.layers):
        name += "_input"
    # A model that was not built yet, or takes any number of channels, gets colours.
    grey = bool(model.inputs) and model.inputs[0].shape[-1] == 1
    return import_keras().Input((*image_size, 1 if grey else 3), dtype="float32", name=name)


class Rerun:
    """One pass over a network with new inputs."""

    def __init__(self) -> None:
        self._resized: dict[Any, Any] = {}
        self._names: set[str] = set()

    def apply(self, model: keras.Model, tensors: Sequence[Any], names: tuple[str, ...]) -> Any:
        """Runs `model` on `tensors` up to the layer `names`, or to its end for ().

        Returns:
          One tensor; for () all outputs, in the structure that the model has.
        """
        keras = import_keras()
        if isinstance(model, keras.Sequential):
            return self._apply_sequential(model, tensors[0], names)
        if not names:
            outputs = self.between(model, model.outputs, tensors)
            return keras.tree.pack_sequence_as(model._outputs_struct, outputs)
        layer = model.get_layer(names[0])
        if len(names) == 1:
            return self.between(model, [require_tensor(model, layer)], tensors)[0]
        calls = _calls(model, layer)
        if len(calls) != 1:
            raise UsageError(
                f"--layer: {layer.name!r} is called {len(calls)} times in the network, so a layer "
                f"inside it has no single output; cut at a layer that follows it"
            )
        before = calls[0].input_tensors[: len(layer.inputs)]
        return self._inside(layer, self.between(model, before, tensors), names[1:])

    def _apply_sequential(self, model: Any, tensor: Any, names: tuple[str, ...]) -> Any:
        for layer in model.layers:
            if names and layer.name == names[0]:
                if names[1:]:
                    return self._inside(layer, [tensor], names[1:])
                return self.call(layer, tensor)
            tensor = self.call(layer, tensor)
        return tensor

    def _inside(self, layer: Any, tensors: Sequence[Any], names: tuple[str, ...]) -> Any:
        keras = import_keras()
        # A scope of its own keeps names inside a nested model apart from those outside.
        inner = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in tensors]
        nested = keras.Model(inner, self.apply(layer, inner, names), name=layer.name)
        return nested(list(tensors))

    def between(
        self, model: keras.Model, targets: Sequence[Any], tensors: Sequence[Any]
    ) -> list[Any]:
        """Runs the layers between the model's inputs and `targets` on `tensors`."""
        keras = import_keras()
        given = {id(old): new for old, new in zip(model.inputs, tensors, strict=True)}
        wanted = [target for target in targets if id(target) not in given]
        if wanted:
            again = keras.models.clone_model(
                keras.Model(model.inputs, wanted),
                input_tensors=list(tensors),
                clone_function=lambda layer: layer,
                call_function=self.call,
            )
            given.update(zip(map(id, wanted), again.outputs, strict=True))
        return [given[id(target)] for target in targets]

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer with its original arguments, in the original shapes or in new ones."""
        keras = import_keras()
        if is_model(layer) and layer.inputs:
            tensors = [
                value
                for value in keras.tree.flatten((args, kwargs))
                if isinstance(value, keras.KerasTensor)
            ][: len(layer.inputs)]
            if not all(map(_takes, layer.inputs, tensors)):
                layer = self._for_shapes(layer, tensors)
        return layer(*args, **kwargs)

    def _for_shapes(self, model: Any, tensors: Sequence[Any]) -> Any:
        keras = import_keras()
        key = (id(model), *(tuple(tensor.shape) for tensor in tensors))
        # A model that is called twice stays one layer of the new network.
        if key not in self._resized:
            inner = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in tensors]
            struct: Any = inner[0]
            if not isinstance(model, keras.Sequential):
                struct = keras.tree.pack_sequence_as(model._inputs_struct, inner)
            name = model.name
            while name in self._names:
                name += "_again"
            self._names.add(name)
            self._resized[key] = keras.Model(struct, self.apply(model, inner, ()), name=name)
        return self._resized[key]


def _takes(expected: Any, tensor: Any) -> bool:
    return len(expected.shape) == len(tensor.shape) and all(
        old in (None, new) for old, new in zip(expected.shape, tensor.shape, strict=True)
    )


def _calls(model: keras.Model, layer: Any) -> list[Any]:
    """Lists the calls of `layer` in the graph of `model`, the nearest to the output first.

    The public `layer.output` fails for a layer that was called twice, and every cut calls again.
    """
    depths = getattr(_functional(model), "_nodes_by_depth", {})
    return [node for depth in sorted(depths) for node in depths[depth] if node.operation is layer]


def _functional(model: keras.Model) -> Any:
    # A built Sequential keeps its graph in a functional model.
    return getattr(model, "_functional", model)


def tensor_of(model: keras.Model, layer: Any) -> Any | None:
    """Returns the output of the last call of `layer` in `model`; None unless it is one tensor."""
    calls = _calls(model, layer)
    return calls[0].outputs[0] if calls and len(calls[0].outputs) == 1 else None


def require_tensor(model: keras.Model, layer: Any) -> Any:
    """Returns the output of the last call of a layer.

    Raises:
      UsageError: unless it is one tensor.
    """
    tensor = tensor_of(model, layer)
    if tensor is not None:
        return tensor
    calls = _calls(model, layer)
    if not calls:
        raise UsageError(
            f"--layer: {layer.name!r} is not part of the network's graph; choose another layer"
        )
    inside = [f"{layer.name}/{name}" for name in output_names(layer)] if is_model(layer) else []
    raise UsageError(
        f"--layer: {layer.name!r} has {len(calls[0].outputs)} outputs, but features need one; "
        f"choose {' or '.join(inside) or 'another layer'}"
    )


def output_names(model: keras.Model) -> list[str]:
    """Returns the names of the model's output layers, in order."""
    return [tensor._keras_history.operation.name for tensor in model.outputs]


def convolves(operation: Any) -> bool:
    """Returns whether a layer is a convolution or contains one."""
    parts = operation._flatten_layers() if hasattr(operation, "_flatten_layers") else [operation]
    return any("Conv" in kind.__name__ for part in parts for kind in type(part).__mro__)


def convolved(model: keras.Model) -> set[int]:
    """Returns the ids of the convolutions and of all layers behind one."""
    depths = getattr(_functional(model), "_nodes_by_depth", {})
    found: set[int] = set()
    nodes: set[int] = set()
    for depth in sorted(depths, reverse=True):
        for node in depths[depth]:
            if convolves(node.operation) or any(id(n) in nodes for n in node.parent_nodes):
                nodes.add(id(node))
                found.add(id(node.operation))
    return found


def graph_name(name: str) -> str:
    """Returns a network's name as one that TensorFlow accepts."""
    # TensorFlow uses model names as scopes, and a saved file may hold any text.
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name) or "base"
