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

from classifier.runtime import import_keras

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
    keras = import_keras()
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
        new = id(node.operation) not in known
        number = known.setdefault(id(node.operation), len(known))
        arguments = node.arguments
        yield _line("call", number, _plain([arguments.args, arguments.kwargs], refer))
        if new:
            yield from _operation(node.operation)
    yield _line("end", _plain([model.inputs, model.outputs], refer))


def _calls(model: keras.Model) -> list[Any]:
    """Lists the nodes of a graph such that each follows those it needs, from its outputs back."""
    result: list[Any] = []
    done: set[int] = set()
    stack = [(_node_of(tensor), False) for tensor in reversed([*model.outputs, *model.inputs])]
    # No recursion: graphs of a thousand layers are deeper than Python's stack.
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
    except NotImplementedError:
        config = {}
    if type(operation).__name__ == "Lambda":
        config = {**config, "function": operation.function}
    precision = ""
    if isinstance(operation, keras.layers.Layer):
        # Its own name for the precision; a policy's serialised form changes between releases.
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
    """Turns settings into what JSON holds, the same for a tuple and the list it is loaded as."""
    reference = refer(value) if refer else None
    if reference is not None:
        return reference
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        inner = value.get("config")
        if isinstance(inner, Mapping) and "layers" in inner:
            # A model inside a wrapper is told by its graph; its text carries names.
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
    # Not marshal's bytes: they differ between two loads of the same function.
    constants = [
        _code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts
    ]
    return [code.co_code.hex(), constants, list(code.co_names)]
