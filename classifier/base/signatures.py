"""The signatures of a SavedModel: by which names it is called, with what, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.base.saved import UNREADABLE

# Hubs ship some SavedModels without signatures; these are called like a function.
CALL = "__call__"
# What Keras's `model.export()` writes, and TensorFlow Serving asks for.
_PREFERRED = ("serve", "serving_default")
# The common signature for image classification of TensorFlow Hub: this output, from float32 images
# of 0 to 1. See "Common SavedModel APIs for image tasks" in its documentation.
_HUB_OUTPUT = "logits"


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
      name: "" where a function has none.
      shape: None for a size that may vary, and instead of a shape of unknown rank.
      dtype: such as ``float32``.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str

    def __str__(self) -> str:
        shape = "of any shape" if self.shape is None else str(self.shape).replace("None", "any")
        return f"{self.name} {self.dtype} {shape}".strip()


@dataclass(frozen=True)
class Signature:
    """One way to call a SavedModel.

    Attributes:
      name: of the signature or endpoint.
      inputs: its tensors; other arguments are left out.
      outputs: its tensors.
      trainable: number of its trainable parameters.
      non_trainable: number of its other parameters.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    trainable: int = 0
    non_trainable: int = 0

    def __str__(self) -> str:
        sides = (", ".join(map(str, side)) for side in (self.inputs, self.outputs))
        return f"{self.name}: " + " -> ".join(sides)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The (height, width) of the images that it takes, or None when it takes any."""
        for tensor in self.inputs:
            shape = tensor.shape or ()
            if len(shape) == 4 and shape[1] is not None and shape[2] is not None:
                return shape[1], shape[2]
        return None

    @property
    def is_hub_classifier(self) -> bool:
        """Whether it is TensorFlow Hub's common signature for image classification."""
        kinds = [tensor.dtype for tensor in self.inputs]
        return kinds == ["float32"] and [t.name for t in self.outputs] == [_HUB_OUTPUT]


def signatures_of(folder: Path) -> list[Signature]:
    """Reads the signatures of a SavedModel; [] for one that cannot be read.

    Args:
      folder: the local folder that holds ``saved_model.pb``.

    Returns:
      The one that Hoarfrost calls comes first.
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
    except (*UNREADABLE, tf.errors.OpError):
        return []
    found = [_signature(name, function) for name, function in loaded.signatures.items()]
    # `serve` is no signature but a function beside them.
    for name in ("serve", CALL):
        functions = getattr(getattr(loaded, name, None), "concrete_functions", ())
        if functions and not any(signature.name == name for signature in found):
            found.append(_signature(name, functions[-1]))
    order = (*_PREFERRED, *loaded.signatures, CALL)
    return sorted(found, key=lambda signature: order.index(signature.name))


def _signature(name: str, function: Any) -> Signature:
    arguments, named = function.structured_input_signature
    inputs, outputs = _tensors(arguments) + _tensors(named), _tensors(function.structured_outputs)
    trainable, total = (
        sum(math.prod(variable.shape) for variable in variables)
        for variables in (function.trainable_variables, function.variables)
    )
    return Signature(name, inputs, outputs, trainable, total - trainable)


def _tensors(structure: Any) -> tuple[Tensor, ...]:
    """Returns the tensors in a nested structure of specs; a dictionary gives them their names."""
    if isinstance(structure, Mapping):
        pairs = [(str(key), _tensors(value)) for key, value in structure.items()]
        return tuple(Tensor(key, t.shape, t.dtype) for key, found in pairs for t in found)
    if isinstance(structure, Sequence) and not isinstance(structure, str):
        return tuple(tensor for value in structure for tensor in _tensors(value))
    if not hasattr(structure, "shape"):
        return ()
    shape = None if structure.shape.rank is None else tuple(structure.shape.as_list())
    name = getattr(structure, "name", None) or ""
    return (Tensor("" if name == "unknown" else name, shape, structure.dtype.name),)
