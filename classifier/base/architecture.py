"""Identifies a network by what it computes, independent of the names of its layers.

Equal arrays give different features in a graph with another activation, stride, scaling constant or
epsilon, so a base is identified by its arrays and its graph. The graph is walked backwards from its
outputs, and each operation is numbered by its place in that walk: Keras numbers unnamed layers by
session, and a loaded file may list its layers in another order.

Settings that do not change features are left out: names, modules, initializers, regularizers,
constraints, seeds and trainability. Input shapes are left out because the store records them.

A change to this module makes every existing store incompatible with new runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.runtime import import_keras

if TYPE_CHECKING:
    import keras

_IGNORED = frozenset(
    {
        "name", "registered_name", "module", "trainable", "build_config", "compile_config",
        "batch_shape", "batch_input_shape", "seed", "shared_object_id",
    }
)  # fmt: skip
# Of a network that is cut out of a backbone: its `classifier.base.backbone.CutBackbone`.
HELD = "cut_backbone"
_IGNORED_ENDS = ("_initializer", "_regularizer", "_constraint")


def identifying_lines(model: keras.Model) -> Iterator[bytes]:
    """Yields a network's calls in order, with the settings and arrays of each layer.

    Args:
      model: a built functional or sequential network.

    Yields:
      Byte strings, the same in every process, before saving and after loading.
    """
    keras = import_keras()
    if held := getattr(model, HELD, None):
        # Layers of KerasHub may not tell all that they compute; their backbone does.
        yield _line("backbone", type(held.backbone).__name__, _plain(held.config))
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            yield from _operation(layer)
        yield _line("end")
        return
    nodes = calls(model)
    place = {id(node): number for number, node in enumerate(nodes)}

    def refer(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            operation, node_index, tensor_index = value._keras_history
            return ["tensor", place[id(operation._inbound_nodes[node_index])], tensor_index]
        return None

    known: dict[int, int] = {}
    for node in nodes:
        new = id(node.operation) not in known
        number = known.setdefault(id(node.operation), len(known))
        arguments = node.arguments
        yield _line("call", number, _plain([arguments.args, arguments.kwargs], refer))
        if new:
            yield from _operation(node.operation)
    yield _line("end", _plain([model.inputs, model.outputs], refer))


def calls(model: keras.Model) -> list[Any]:
    """Lists the nodes of a graph so that each one follows the nodes it depends on."""
    result: list[Any] = []
    done: set[int] = set()
    stack = [(_node_of(tensor), False) for tensor in reversed([*model.outputs, *model.inputs])]
    # A graph of a thousand layers is too deep for recursion in Python.
    while stack:
        node, expanded = stack.pop()
        if id(node) in done:
            continue
        if expanded:
            done.add(id(node))
            result.append(node)
            continue
        stack.append((node, True))
        stack.extend((_node_of(tensor), False) for tensor in reversed(node.input_tensors))
    return result


def _node_of(tensor: Any) -> Any:
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def _operation(operation: Any) -> Iterator[bytes]:
    """Yields one layer's or operation's kind, settings and arrays; a nested model's whole graph."""
    keras = import_keras()
    if isinstance(operation, keras.Model):
        yield _line("model")
        yield from identifying_lines(operation)
        return
    try:
        config = operation.get_config()
    # A layer of KerasHub 0.32 may fail to tell its settings, and then its backbone tells them.
    except (NotImplementedError, AttributeError, TypeError):
        config = {}
    if type(operation).__name__ == "Lambda":
        config = {**config, "function": operation.function}
    precision = ""
    if isinstance(operation, keras.layers.Layer):
        # The serialised form of a dtype policy changes between Keras releases.
        config.pop("dtype", None)
        precision = operation.compute_dtype
    yield _line("layer", type(operation).__name__, precision, _plain(config))
    for part in getattr(operation, "_flatten_layers", lambda **_: ())(
        include_self=False, recursive=False
    ):
        if isinstance(part, keras.Model):
            yield from _operation(part)
    for weight in getattr(operation, "get_weights", list)():
        array = np.ascontiguousarray(weight)
        yield _line("array", array.dtype.str, list(array.shape))
        yield array.tobytes()


def _line(*parts: Any) -> bytes:
    return json.dumps(parts).encode() + b"\n"


def _plain(value: Any, refer: Callable[[Any], Any] | None = None) -> Any:
    """Turns settings into JSON values; a tuple and the list it is loaded as become equal."""
    reference = refer(value) if refer else None
    if reference is not None:
        return reference
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        inner = value.get("config")
        if isinstance(inner, Mapping) and "layers" in inner:
            # The graph identifies a model inside a wrapper; its configuration has names in it.
            return "model"
        return {
            str(key): _plain(item, refer)
            for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))
            if key not in _IGNORED and not str(key).endswith(_IGNORED_ENDS)
        }
    if isinstance(value, list | tuple):
        return [_plain(item, refer) for item in value]
    if isinstance(value, slice):
        return ["slice", *(_plain(item, refer) for item in (value.start, value.stop, value.step))]
    if hasattr(value, "numpy") or isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).tolist()
    if callable(value) and hasattr(value, "__code__"):
        return _code(value.__code__)
    return getattr(value, "name", type(value).__name__)


def _code(code: CodeType) -> list[Any]:
    # The bytes that marshal writes differ between two loads of one function.
    constants = [
        _code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts
    ]
    return [code.co_code.hex(), constants, list(code.co_names)]
