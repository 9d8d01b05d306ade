"""The layers of a network: their paths, their names in any session, and the default cut."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classifier.base import graph
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras


# Stands for the last layer of a whole network, whatever its name is.
OUTPUT = "output"


def _snake(name: str) -> str:
    # Keras's rule for automatic names (keras/src/utils/naming.py).
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def canonical_names(model: keras.Model) -> dict[str, str]:
    """Maps the layer names of a new model to the names that they would have in a new session.

    Keras numbers unnamed layers by session: the first `Activation` of the fifth model may be
    ``activation_94``. A layer's name is part of a store's identity, so numbers start at 0 here.

    Args:
      model: one of `keras.applications`, as built.

    Returns:
      Real name -> canonical name, for every layer of the top level.
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


def renamed(path: str, names: Mapping[str, str]) -> str:
    """Replaces the outermost name of a layer's path, if `names` has a new one for it.

    Example:
      >>> renamed("base_1/conv", {"base_1": "base"})
      'base/conv'
    """
    first, slash, rest = path.partition("/")
    return names.get(first, first) + slash + rest


def layer_paths(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any, keras.Model]]:
    """Yields (path, layer, owner) for every layer; paths in nested models are ``outer/inner``."""
    for layer in model.layers:
        path = prefix + layer.name
        yield path, layer, model
        if graph.is_model(layer):
            yield from layer_paths(layer, path + "/")


def output_shape(model: keras.Model, layer: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of `layer`'s output in `model`, the batch first; None if it has several."""
    tensor = graph.tensor_of(model, layer)
    return None if tensor is None else tuple(tensor.shape)


def default_layer(model: keras.Model) -> Any | None:
    """Returns the last top-level layer whose output can serve as features, or None.

    Such an output is a feature map behind a convolution, or the vector of a nested conv base.
    Layers before the first convolution (such as Rescaling) only prepare pixels.
    """
    convolved = graph.convolved(model)
    for layer in reversed(model.layers):
        shape = output_shape(model, layer) if id(layer) in convolved else None
        if shape is not None and (len(shape) == 4 or _is_conv_base(layer)):
            return layer
    return None


def _is_conv_base(layer: Any) -> bool:
    return graph.is_model(layer) and graph.convolves(layer)


def default_names(whole: keras.Model, label: str) -> tuple[tuple[str, ...], str]:
    """Finds the layer where a saved network is cut by default.

    Args:
      whole: the network.
      label: the user's name for it, for the message.

    Returns:
      (its path, a note for the user).

    Raises:
      UsageError: when the network has several outputs, or no feature map.
    """
    require_one_output(whole, label)
    found = default_layer(whole)
    if found is None:
        raise UsageError(
            f"--layer: {label!r} has no feature map that comes out of a convolution; give --layer "
            f"(all of them: python -m classifier.bases {label})"
        )
    shape = output_shape(whole, found) or ()
    what = "the last feature map" if len(shape) == 4 else "the output of the conv base in it,"
    return (found.name,), f"layer {found.name}: {what} of {label}; --layer cuts elsewhere"


def means_output(layer: str, whole: keras.Model) -> bool:
    """Returns whether a layer's name stands for the network's own output."""
    return layer == OUTPUT and all(found.name != layer for found in whole.layers)


def require_one_output(whole: keras.Model, label: str) -> None:
    """Refuses a network of several outputs as a base without a layer; `label` is its name."""
    if len(whole.outputs) > 1:
        names = ", ".join(dict.fromkeys(graph.output_names(whole)))
        raise UsageError(
            f"--layer: {label!r} has {len(whole.outputs)} outputs ({names}), but features need "
            "one; give --layer"
        )


def find_layer(model: keras.Model, path: str, where: str) -> tuple[str, ...]:
    """Finds a layer by its path ``outer/inner``.

    Args:
      model: the network.
      path: the layer as the user named it; a name may itself contain slashes.
      where: the user's name for the network, for the message.

    Returns:
      The names along the path, outermost first.

    Raises:
      UsageError: for an unknown layer, with near names.
    """
    for layer in model.layers:
        if layer.name == path:
            return (path,)
        if graph.is_model(layer) and path.startswith(layer.name + "/"):
            inner = path[len(layer.name) + 1 :]
            if any(known == inner for known, *_ in layer_paths(layer)):
                return (layer.name, *find_layer(layer, inner, where))
    raise unknown_layer(path, [known for known, *_ in layer_paths(model)], where)


def unknown_layer(path: str, known: Sequence[str], where: str) -> UsageError:
    """Builds the error for an unknown layer: similar names, and how to list all of them."""
    inside = [name for name in known if name.split("/")[-1] == path]
    near = inside or difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    if not near:
        by_last = {name.split("/")[-1]: name for name in known}
        near = [
            by_last[name]
            for name in difflib.get_close_matches(path.split("/")[-1], list(by_last), n=3)
        ]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "no name is similar;"
    return UsageError(
        f"--layer: {where} has no layer {path!r}; {hint} "
        f"(all {len(known)}: python -m classifier.bases {where})"
    )


def is_top_layer(layer: str) -> bool:
    """Returns whether a `keras.applications` base has `layer` only with its classification top."""
    # The layers that include_top=True adds.
    tops = (
        "avg_pool", "conv_preds", "dropout", "fc1", "fc2", "flatten", "global_average_pooling2d",
        "logits", "predictions", "reshape_2", "top_dropout", OUTPUT,
    )  # fmt: skip
    return layer in tops or any(f"_head_{part}" in layer for part in ("gap", "layernorm", "dense"))
