"""Cuts a network at several layers at once, so that one pass gives the outputs of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifier.base import graph
from classifier.base.architecture import calls
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras


def cut_several(
    model: keras.Model, paths: Sequence[tuple[str, ...]], image_size: tuple[int, int]
) -> keras.Model:
    """Builds the network from a new image input to the outputs of several layers.

    Every layer is called once. The layers of a nested model with a wanted layer are called one by
    one, without the model around them.

    Args:
      model: as for `cut`.
      paths: of each layer, as for `cut`.
      image_size: (height, width) in pixels.

    Returns:
      A model with one output per path, in their order.

    Raises:
      UsageError: when a layer has no single output.
      ValueError: from Keras, when a layer does not accept that size.
    """
    image, rerun = graph.image_input(model, image_size), _Recording(paths)
    rerun.start(model, image)
    outputs = [rerun.found.get(path) for path in paths]
    for path, output in zip(paths, outputs, strict=True):
        if output is None or isinstance(output, (list, tuple, dict)):
            raise UsageError(
                f"--layer: {'/'.join(path)!r} has no single output that can be taken beside those "
                "of other layers; extract it alone, or choose another layer"
            )
    return import_keras().Model(image, outputs, name=graph.graph_name(model.name))


class _Recording(graph.Rerun):
    """A pass that keeps the outputs of some layers, also of those inside nested models.

    Args:
      paths: of the layers.

    Attributes:
      found: path -> the output of the layer's last call.
    """

    def __init__(self, paths: Sequence[tuple[str, ...]]) -> None:
        super().__init__()
        self._paths = paths
        self._at: tuple[str, ...] = ()
        self.found: dict[tuple[str, ...], Any] = {}

    def start(self, model: keras.Model, image: Any) -> None:
        """Runs as much of a network as gives the layers."""
        if () in self._paths:
            (self.found[()],) = import_keras().tree.flatten(self.apply(model, [image], ()))
            return
        outer = list(dict.fromkeys(path[0] for path in self._paths))
        if not isinstance(model, import_keras().Sequential):
            targets = [graph.require_tensor(model, model.get_layer(name)) for name in outer]
            self.between(model, targets, [image])
            return
        last = max([layer.name for layer in model.layers].index(name) for name in outer)
        tensor = image
        for layer in model.layers[: last + 1]:
            tensor = self.call(layer, tensor)

    def between(
        self, model: keras.Model, targets: Sequence[Any], tensors: Sequence[Any]
    ) -> list[Any]:
        # `clone_model`, which needs inputs of its own, would take a nested model out of the graph.
        keras = import_keras()
        given = {id(old): new for old, new in zip(model.inputs, tensors, strict=True)}
        for node in calls(keras.Model(model.inputs, list(targets))):
            if not node.is_input:
                args, kwargs = node.arguments.fill_in(given)
                outputs = keras.tree.flatten(self.call(node.operation, *args, **kwargs))
                given.update(zip(map(id, node.outputs), outputs, strict=True))
        return [given[id(target)] for target in targets]

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        path = (*self._at, layer.name)
        if any(len(other) > len(path) and other[: len(path)] == path for other in self._paths):
            tree, before = import_keras().tree, self._at
            tensors = [value for value in tree.flatten((args, kwargs)) if hasattr(value, "shape")]
            self._at = path
            output = self.apply(layer, tensors[: len(layer.inputs)], ())
            self._at = before
        else:
            output = super().call(layer, *args, **kwargs)
        if path in self._paths:
            self.found[path] = output
        return output
