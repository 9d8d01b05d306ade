"""The bottlenecks of a base, and its tail: what follows one of them.

A bottleneck is a layer through whose one output tensor every path from the image to the features
passes. So its output alone decides the features: a store that is cut there holds all that the tail,
the layers behind it, needs. Inside a residual block two tensors are needed, and so no layer there
is a bottleneck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from classifier.base import graph, layers
from classifier.base.architecture import calls
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras


class Step(NamedTuple):
    """A layer on the way from the image to the features.

    Attributes:
      path: ``outer/inner`` in nested models.
      layer: the Keras layer; after the steps of its own layers if it is a nested model.
      is_bottleneck: whether all that follows depends on its one output tensor alone.
    """

    path: str
    layer: Any
    is_bottleneck: bool


def steps(model: keras.Model) -> list[Step]:
    """Lists the layers that the output of a base depends on, each behind those that it depends on.

    Args:
      model: a functional or sequential network with one input and one output.
    """
    return list(_steps(model, "", True))


def _steps(model: Any, prefix: str, alone: bool) -> Iterator[Step]:
    """Yields the steps of `model`; if not `alone`, none of them is a bottleneck."""
    keras = import_keras()
    times = Counter(id(operation) for operation, _ in _passed(model))
    for operation, is_passed in _passed(model):
        single = alone and is_passed and times[id(operation)] == 1
        path = prefix + operation.name
        if graph.is_model(operation):
            inside = single and len(operation.inputs or [0]) == 1
            yield from _steps(operation, f"{path}/", inside)
        if isinstance(operation, keras.layers.Layer):
            is_input = isinstance(operation, keras.layers.InputLayer)
            yield Step(path, operation, single and not is_input)


def _passed(model: Any) -> Iterator[tuple[Any, bool]]:
    """Yields each operation that `model` calls, and whether every path passes through the call."""
    if isinstance(model, import_keras().Sequential):
        yield from ((layer, True) for layer in model.layers)
        return
    nodes = calls(model)
    needed_until = {
        id(tensor): at for at, node in enumerate(nodes) for tensor in node.input_tensors
    }
    needed_until |= {id(tensor): len(nodes) for tensor in model.outputs}
    # Up to which call tensors of earlier calls are needed.
    others = 0
    for at, node in enumerate(nodes):
        yield node.operation, others <= at and len(node.outputs) == 1
        others = max([others, *(needed_until.get(id(tensor), 0) for tensor in node.outputs)])


def bottlenecks(model: keras.Model) -> list[str]:
    """Returns the paths of a base's bottlenecks, in the order of the way from the image.

    Args:
      model: a functional or sequential network with one input and one output.
    """
    return [step.path for step in steps(model) if step.is_bottleneck]


def nearest_bottleneck(model: keras.Model, path: str) -> str | None:
    """Returns the last bottleneck at or before a layer; None if there is none.

    Args:
      model: the base.
      path: of the layer, as `steps` names it.
    """
    nearest = None
    for step in steps(model):
        nearest = step.path if step.is_bottleneck else nearest
        if step.path == path:
            return nearest
    return None


def tail(model: keras.Model, path: str) -> keras.Model:
    """Builds what follows a bottleneck of a base.

    Args:
      model: the base: a functional or sequential network with one input and one output.
      path: of the bottleneck, ``outer/inner`` in nested models.

    Returns:
      A model named ``tail`` from float32 (n, *shape) of the bottleneck's output to the base's own
      output. It shares its layers and weights with `model`.

    Raises:
      UsageError: for an unknown layer, for one that is no bottleneck, naming the nearest one before
        it, and for the last layer, which nothing follows.
    """
    keras = import_keras()
    names = layers.find_layer(model, path, "the base")
    if path not in bottlenecks(model):
        nearest = nearest_bottleneck(model, path)
        raise UsageError(
            f"the base cannot continue from {path!r}, which is no bottleneck: what follows also "
            "needs outputs of earlier layers, which a store that is cut there does not hold; "
            + (f"cut at {nearest!r}, the nearest one before it" if nearest else "use pixels")
        )
    features = keras.Input(_shape(model, names), dtype="float32", name="features")
    output = _after(graph.Rerun(), model, names, features)
    if output is features:
        raise UsageError(f"nothing of the base follows {path!r}; cut at an earlier layer")
    return keras.Model(features, output, name="tail")


def _shape(model: Any, names: Sequence[str]) -> tuple[int, ...]:
    """Returns the shape of a layer's output, without the batch."""
    for name in names[:-1]:
        model = model.get_layer(name)
    tensor = graph.tensor_of(model, model.get_layer(names[-1]))
    assert tensor is not None  # A bottleneck has one output.
    return tuple(tensor.shape[1:])


def _after(rerun: graph.Rerun, model: Any, names: Sequence[str], tensor: Any) -> Any:
    """Runs the layers of `model` behind the layer `names` on `tensor`, and returns the output."""
    layer = model.get_layer(names[0])
    if names[1:]:
        tensor = _after(rerun, layer, names[1:], tensor)
    keras = import_keras()
    if isinstance(model, keras.Sequential):
        for following in model.layers[model.layers.index(layer) + 1 :]:
            tensor = rerun.call(following, tensor)
        return tensor
    new = {id(graph.tensor_of(model, layer)): tensor}
    for node in calls(model):
        if any(id(old) in new for old in node.input_tensors):
            arguments, named = node.arguments.fill_in(new)
            outputs = keras.tree.flatten(rerun.call(node.operation, *arguments, **named))
            new |= zip(map(id, node.outputs), outputs, strict=True)
    return new[id(model.outputs[0])]
