"""Which layers of a base are trained, as `--unfreeze` spells it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classifier.base import graph, layers, tail
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

ALL = "all"


def leaves(model: keras.Model) -> list[tuple[str, Any]]:
    """Lists (path, layer) of the layers of a base, in Keras's order, without nested models."""
    paths = layers.layer_paths(model)
    return [(path, layer) for path, layer, _ in paths if not graph.is_model(layer)]


def unfrozen(
    model: keras.Model, wanted: str, where: str, real_names: Mapping[str, str] | None = None
) -> list[str]:
    """Returns the paths of the layers that `--unfreeze` names, in Keras's order.

    Args:
      model: the base.
      wanted: ``all``; the number of layers, counted from the end of the base; or the path of the
        first one.
      where: the user's name for the base, for the message.
      real_names: outermost names as the user knows them -> those of `model`. The last part of a
        path will do if no other layer has it.

    Raises:
      UsageError: for more layers than there are, and for an unknown layer.
    """
    known = [path for path, _ in leaves(model)]
    if wanted == ALL:
        return known
    if re.fullmatch(r"[0-9]+", wanted):
        if int(wanted) > len(known):
            raise UsageError(
                f"--unfreeze {wanted}: {where} has {len(known)} layers; give at most so many, "
                "or all"
            )
        return known[len(known) - int(wanted) :]
    inner = [path for path in known if path.endswith(f"/{wanted}")]
    if len(inner) == 1:
        return known[known.index(inner[0]) :]
    try:
        found = "/".join(layers.find_layer(model, layers.renamed(wanted, real_names or {}), where))
    except UsageError as error:
        raise UsageError(str(error).replace("--layer", "--unfreeze", 1)) from error
    # A nested model begins with its first layer.
    start = next(
        number for number, path in enumerate(known) if path == found or path.startswith(f"{found}/")
    )
    return known[start:]


def set_trainable(model: keras.Model, paths: Collection[str]) -> None:
    """Makes the layers at `paths` trainable, and no other layer of the base."""
    model.trainable = True
    for path, layer in leaves(model):
        layer.trainable = path in paths


def latest_cut(model: keras.Model, paths: Collection[str]) -> str | None:
    """Returns the last bottleneck before all layers at `paths` that have weights, if any.

    Args:
      model: the base.
      paths: of the layers to train.
    """
    found = None
    for step in tail.steps(model):
        if step.path in paths and step.layer.weights:
            return found
        found = step.path if step.is_bottleneck else found
    return found


def describe(model: keras.Model, canonical: bool) -> dict[str, Any]:
    """Lists the layers of a network, counts its parameters, and marks where it can be cut.

    Args:
      model: the network.
      canonical: whether to number unnamed layers from 0; for `keras.applications`.

    Returns:
      ``layers``, each with name, type, output shape (without the batch), parameters, whether it is
      a bottleneck, and ``unfreeze``: the N of the `--unfreeze` that begins with it, with the
      parameters that this trains (None for a nested model, whose layers count one by one); and the
      totals ``trainable`` and ``non_trainable``.
    """
    trainable = count(model.trainable_weights)
    names = layers.canonical_names(model) if canonical else {}
    necks = set(tail.bottlenecks(model))
    counts = trainable_counts([layer for _, layer in leaves(model)])
    places = {path: number for number, (path, _) in enumerate(leaves(model))}
    rows = []
    for path, layer, owner in layers.layer_paths(model):
        shape = layers.output_shape(owner, layer)
        place = places.get(path)
        rows.append(
            {
                "name": layers.renamed(path, names),
                "type": type(layer).__name__,
                "output_shape": None if shape is None else list(shape[1:]),
                "parameters": layer.count_params() if layer.built else 0,
                "bottleneck": path in necks,
                "unfreeze": None if place is None else len(places) - place,
                "trained": None if place is None else counts[place],
            }
        )
    total = count(model.weights)
    return {"layers": rows, "trainable": trainable, "non_trainable": total - trainable}


def trainable_counts(parts: Sequence[Any]) -> list[int]:
    """Returns how many parameters are trained if a layer and all behind it are unfrozen."""
    total, counts = 0, []
    seen: set[int] = set()
    for layer in reversed(parts):
        was, layer.trainable = layer.trainable, True
        new = [weight for weight in layer.trainable_weights if id(weight) not in seen]
        layer.trainable = was
        seen |= {id(weight) for weight in new}
        total += count(new)
        counts.append(total)
    return counts[::-1]


def count(weights: Sequence[Any]) -> int:
    """Returns how many numbers arrays hold together."""
    return sum(math.prod(weight.shape) for weight in weights)
