"""Cutting a network at any layer, also inside nested models and at another input size.

A cut is made by running the layers again, the same objects with the same weights, on a new input of
the wanted size. That one way serves every case: a fixed input size, a nested model (whose input
goes through the outer layers before it, such as Rescaling), and a cut inside it. Nothing is cloned,
so the numbers are those of the whole model.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras


def _is_model(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.Model)


def _snake(name: str) -> str:
    # Keras's rule for automatic names (keras/src/utils/naming.py).
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def canonical_names(model: keras.Model) -> dict[str, str]:
    """Maps the names of a freshly built model's layers to those a new session would give.

    Keras numbers unnamed layers by session: the 5th model's first `Activation` is
    ``activation_94``. The layer's name is part of a store's identity, so numbers start at 0 again.

    Args:
      model: one of `keras.applications`, as built.

    Returns:
      Real name to canonical name, for every layer of the top level.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    result = {}
    for layer in model.layers:
        result[layer.name] = layer.name
        prefix = _snake(type(layer).__name__)
        match = re.fullmatch(rf"{re.escape(prefix)}(?:_(\d+))?", layer.name)
        if match:
            numbered.setdefault(prefix, []).append((int(match.group(1) or 0), layer.name))
    for prefix, members in numbered.items():
        first = min(number for number, _ in members)
        for number, name in members:
            result[name] = f"{prefix}_{number - first}" if number > first else prefix
    return result


def layer_paths(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any, keras.Model]]:
    """Yields (path, layer, owner) of every layer, ``outer/inner`` for those of nested models."""
    for layer in model.layers:
        path = prefix + layer.name
        yield path, layer, model
        if _is_model(layer):
            yield from layer_paths(layer, path + "/")


def output_shape(model: keras.Model, layer: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of `layer`'s output within `model`, the batch first; None if several."""
    tensor = _tensor_of(model, layer)
    return None if tensor is None else tuple(tensor.shape)


def default_layer(model: keras.Model) -> Any | None:
    """Returns the last layer of the top level whose output is a feature map, or None."""
    for layer in reversed(model.layers):
        shape = output_shape(model, layer)
        if shape is not None and len(shape) == 4 and not _is_input(layer):
            return layer
    return None


def find_layer(model: keras.Model, path: str, where: str) -> tuple[str, ...]:
    """Splits ``outer/inner`` into names, each checked.

    Args:
      model: the network.
      path: the layer as the user named it; a name may itself contain slashes.
      where: what the user calls the network, for the message.

    Returns:
      The names from the outside in.

    Raises:
      UsageError: for an unknown layer, with near names.
    """
    for layer in model.layers:
        if layer.name == path:
            return (path,)
        if _is_model(layer) and path.startswith(layer.name + "/"):
            inner = path[len(layer.name) + 1 :]
            if any(known == inner for known, *_ in layer_paths(layer)):
                return (layer.name, *find_layer(layer, inner, where))
    raise unknown_layer(path, [known for known, *_ in layer_paths(model)], where)


def unknown_layer(path: str, known: Sequence[str], where: str) -> UsageError:
    """Builds the error for a layer that does not exist: near names, then where to see them all."""
    inside = [name for name in known if name.split("/")[-1] == path]
    near = inside or difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    if not near:
        by_last = {name.split("/")[-1]: name for name in known}
        near = [
            by_last[name]
            for name in difflib.get_close_matches(path.split("/")[-1], list(by_last), n=3)
        ]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "no name comes near;"
    return UsageError(
        f"--layer: {where} has no layer {path!r}; {hint} "
        f"(all {len(known)}: python -m classifier.bases {where})"
    )


def cut(model: keras.Model, names: tuple[str, ...], image_size: tuple[int, int]) -> keras.Model:
    """Builds the network from a new image input to the output of one layer.

    Args:
      model: a functional or sequential network with one image input.
      names: the layer, from the outside in, as `find_layer` returns it; () for the whole network.
      image_size: (height, width) in pixels.

    Returns:
      A model from float32 (n, H, W, 3) to that layer's output; it shares the weights of `model`.

    Raises:
      ValueError: Keras's own, when a layer cannot take that size.
    """
    import keras

    image = keras.Input((*image_size, 3), dtype="float32", name="image")
    return keras.Model(image, _apply(model, image, names), name=_graph_name(model.name))


def _apply(model: keras.Model, tensor: Any, names: tuple[str, ...]) -> Any:
    import keras

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            if names and layer.name == names[0]:
                return _apply_layer(layer, tensor, names[1:])
            tensor = _apply_layer(layer, tensor)
        return tensor
    if not names:
        return _rerun(model, model.outputs[0], tensor)
    layer = model.get_layer(names[0])
    if len(names) == 1:
        return _rerun(model, _require_tensor(model, layer), tensor)
    before = _node(model, layer).input_tensors[0]
    return _apply_layer(layer, _rerun(model, before, tensor), names[1:])


def _apply_layer(layer: Any, tensor: Any, names: tuple[str, ...] = ()) -> Any:
    if not _is_model(layer):
        return layer(tensor)
    import keras

    # A nested model keeps its own scope, or names inside and outside it could collide.
    inner = keras.Input(tensor.shape[1:], dtype=tensor.dtype)
    nested = keras.Model(inner, _apply(layer, inner, names), name=layer.name)
    return nested(tensor)


def _rerun(model: keras.Model, target: Any, tensor: Any) -> Any:
    """Runs the layers between the model's input and `target` again, on `tensor`."""
    import keras

    if target is model.inputs[0]:
        return tensor

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return _apply_layer(layer, args[0]) if _is_model(layer) else layer(*args, **kwargs)

    part = keras.Model(model.inputs[0], target)
    again = keras.models.clone_model(
        part, input_tensors=tensor, clone_function=lambda layer: layer, call_function=call
    )
    return again.outputs[0]


def _node(model: keras.Model, layer: Any) -> Any:
    """Finds the call of `layer` in the graph of `model`: the last one when there are several.

    The public `layer.output` fails once a layer is called twice, which every cut does.
    """
    depths = getattr(model, "_nodes_by_depth", {})
    # The smallest depth is nearest to the output.
    for depth in sorted(depths):
        for node in depths[depth]:
            if node.operation is layer:
                return node
    return None


def _graph(model: keras.Model) -> Any:
    import keras

    # A Sequential keeps its graph in a functional twin, once it knows its input's shape.
    return model._functional if isinstance(model, keras.Sequential) else model


def _tensor_of(model: keras.Model, layer: Any) -> Any | None:
    graph = _graph(model)
    node = None if graph is None else _node(graph, layer)
    if node is None:
        return None
    return node.outputs[0] if len(node.outputs) == 1 else None


def _require_tensor(model: keras.Model, layer: Any) -> Any:
    tensor = _tensor_of(model, layer)
    if tensor is None:
        raise UsageError(
            f"--layer: {layer.name!r} has no single output tensor (several outputs, or not a part "
            "of the network's graph); choose another layer"
        )
    return tensor


def _is_input(layer: Any) -> bool:
    return type(layer).__name__ == "InputLayer"


def _graph_name(name: str) -> str:
    # Model names become scope names; a saved file may carry any text.
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name) or "base"


def describe(model: keras.Model, canonical: bool) -> dict[str, Any]:
    """Lists what can be cut where.

    Args:
      model: the network.
      canonical: whether unnamed layers are numbered from 0, as for `keras.applications`.

    Returns:
      ``layers``, each with name, type, output shape (without the batch) and parameters, and the
      totals ``trainable`` and ``non_trainable``.
    """
    names = canonical_names(model) if canonical else {}
    rows = []
    for path, layer, owner in layer_paths(model):
        first, slash, rest = path.partition("/")
        shape = output_shape(owner, layer)
        rows.append(
            {
                "name": names.get(first, first) + slash + rest,
                "type": type(layer).__name__,
                "output_shape": None if shape is None else list(shape[1:]),
                "parameters": layer.count_params() if layer.built else 0,
            }
        )
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    total = sum(math.prod(weight.shape) for weight in model.weights)
    return {"layers": rows, "trainable": trainable, "non_trainable": total - trainable}
