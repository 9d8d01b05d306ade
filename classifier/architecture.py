"""What a network computes, whatever its parts are called: the lines that identify it.

Equal arrays in another graph (another activation, stride, scaling constant or epsilon) give other
features, so a base is known by both. The graph is walked from its outputs backwards, and every
operation is known by its place in that walk: Keras numbers unnamed layers by session, and a file
that is loaded again may list its layers in another order.

Left out is what does not change features: names, modules, initializers, regularizers, constraints,
seeds, whether something is trainable; and input shapes, which a store records by themselves.

Changing anything here makes every existing store foreign to new runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_IGNORED = frozenset(
    {
        "name", "registered_name", "module", "trainable", "build_config", "compile_config",
        "batch_shape", "batch_input_shape", "seed", "shared_object_id",
    }
)  # fmt: skip
_IGNORED_ENDS = ("_initializer", "_regularizer", "_constraint")


def identifying_lines(model: keras.Model) -> Iterator[bytes]:
    """Yields what identifies a network: its calls in order, each layer's settings and its arrays.

    Args:
      model: a built functional or sequential network.

    Yields:
      Byte strings whose sequence is the same in every process, before saving and after loading.
    """
    import keras

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            yield from _operation(layer)
        yield _line("end")
        return
    calls = _calls(model)
    place = {id(node): number for number, node in enumerate(calls)}

    def refer(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            operation, node_index, tensor_index = value._keras_history
            return ["tensor", place[id(operation._inbound_nodes[node_index])], tensor_index]
        return None

    known: dict[int, int] = {}
    for node in calls:
        number = known.setdefault(id(node.operation), len(known))
        arguments = node.arguments
        yield _line("call", number, _plain([arguments.args, arguments.kwargs], refer))
        # A shared layer is described where it is called first.
        if number == len(known) - 1 and node is _first_call(calls, node.operation):
            yield from _operation(node.operation)
    yield _line("end", _plain([model.inputs, model.outputs], refer))
