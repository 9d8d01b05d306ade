"""A head as a graph of Keras layers that NumPy runs, and as the ``.keras`` file of it.

Commands that only train or evaluate heads would spend most of their time on importing Keras, so
they do without. The file is what Keras's ``model.save`` writes of the same layers: a zip of
``metadata.json``, of ``config.json`` (the layers, and which of them reads which), and of
``model.weights.h5``. Keras loads it like any other.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from classifier.heads.operations import OPERATIONS, is_known

LAYERS = "keras.layers"
# The layer below the one of this name gives the logits.
PROBABILITIES = "probabilities"
INPUT = "features"
# Layers of which Keras notes the input's shape.
_BUILT = ("Normalization", "Flatten", "Dense", "Embedding", "Rescaling")
# Arguments with which Keras calls a layer.
_CALLS: dict[str, dict[str, Any]] = {"Dropout": {"training": False}, "Softmax": {"mask": None}}
_DTYPE = {
    "module": "keras",
    "class_name": "DTypePolicy",
    "config": {"name": "float32"},
    "registered_name": None,
}


class Tensor(NamedTuple):
    """The output of a layer.

    Attributes:
      layer: its name.
      shape: without the axis of the rows.
      number: which of the layer's outputs it is.
      dtype: ``float32``, or ``int32`` for places.
    """

    layer: str
    shape: tuple[int, ...]
    number: int = 0
    dtype: str = "float32"


class HeadGraph:
    """A head: features -> probabilities.

    Attributes:
      layers: as Keras lists them in ``config.json``, each after those that it reads.
      weights: of each layer that has some, by its name.
    """

    def __init__(
        self,
        layers: Sequence[dict[str, Any]] = (),
        weights: Mapping[str, Sequence[np.ndarray]] | None = None,
    ) -> None:
        self.layers = list(layers)
        self.weights = dict(weights or {})

    @property
    def is_known(self) -> bool:
        """Whether NumPy can run it; a head with a convolution needs Keras."""
        last = self.layers[-1]["config"]["name"] if self.layers else None
        return last == PROBABILITIES and all(
            is_known(layer["class_name"], layer["config"]) for layer in self.layers
        )

    @property
    def parameters(self) -> int:
        """How many numbers it learned."""
        learned = ("Dense", "Embedding")
        names = [layer["name"] for layer in self.layers if layer["class_name"] in learned]
        return sum(array.size for name in names for array in self.weights[name])

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 (n, outputs) for features of any float dtype, (n, *feature_shape)."""
        return self._run(features, self.layers[:-1])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns the output of the last layer: of a whole head, float32 probabilities."""
        return self._run(features, self.layers)

    def _run(self, features: np.ndarray, layers: Sequence[Mapping[str, Any]]) -> np.ndarray:
        values: dict[str, tuple[np.ndarray, ...]] = {}
        given: Sequence[Any] = (features.astype(np.float32, copy=False),)
        # A logit beyond float32 is infinite, as in Keras.
        with np.errstate(all="ignore"):
            for layer in layers:
                name = layer["name"]
                if layer["inbound_nodes"]:
                    given = [_value(each, values) for each in layer["inbound_nodes"][0]["args"]]
                work = OPERATIONS[layer["class_name"]]
                found = work(layer["config"], self.weights.get(name, ()), *given)
                values[name] = found if isinstance(found, tuple) else (found,)
        return values[name][0]

    def input(self, shape: Sequence[int]) -> Tensor:
        """Adds the input, of rows of this shape."""
        config = {"batch_shape": [None, *shape], "dtype": "float32", "sparse": False}
        config |= {"ragged": False, "name": INPUT, "optional": False}
        self._add("InputLayer", config, ())
        return Tensor(INPUT, tuple(shape))

    def layer(
        self,
        kind: str,
        name: str,
        source: Tensor,
        shape: Sequence[int],
        weights: Sequence[np.ndarray] = (),
        **config: Any,
    ) -> Tensor:
        """Adds a layer.

        Args:
          kind: name of its Keras class.
          name: of its own.
          source: that it reads.
          shape: of its output.
          weights: of the layer.
          config: of the layer, besides what all layers have.
        """
        self._add(kind, {"name": name, "trainable": True, "dtype": _DTYPE, **config}, (source,))
        if kind in _BUILT:
            self.layers[-1]["build_config"] = {"input_shape": [None, *source.shape]}
        if len(weights):
            self.weights[name] = list(weights)
        return Tensor(name, tuple(shape))

    def operation(
        self, kind: str, inputs: Sequence[Any], shape: Sequence[int], **config: Any
    ) -> Tensor:
        """Adds an operation, such as a sum; its inputs are tensors, numbers and slices."""
        name, taken = _snake(kind), sum(layer["class_name"] == kind for layer in self.layers)
        name = f"{name}_{taken}" if taken else name
        self._add(kind, {"name": name, **config}, inputs)
        self.layers[-1] |= {
            "module": f"keras.src.ops.{'math' if kind == 'TopK' else 'numpy'}",
            "registered_name": kind,
        }
        return Tensor(name, tuple(shape))

    def _add(self, kind: str, config: dict[str, Any], inputs: Sequence[Any]) -> None:
        node = {"args": [_argument(each) for each in inputs], "kwargs": _CALLS.get(kind, {})}
        self.layers.append(
            {
                "module": LAYERS,
                "class_name": kind,
                "config": config,
                "registered_name": None,
                "name": config["name"],
                "inbound_nodes": [node] if inputs else [],
            }
        )

    def config(self) -> dict[str, Any]:
        """Returns the content of ``config.json``."""
        return {
            "module": "keras.src.models.functional",
            "class_name": "Functional",
            "config": {
                "name": "head",
                "trainable": True,
                "layers": self.layers,
                "input_layers": [self.layers[0]["name"], 0, 0],
                "output_layers": [self.layers[-1]["name"], 0, 0],
            },
            "registered_name": "Functional",
            "build_config": {"input_shape": None},
            "compile_config": {},
        }

    def to_bytes(self) -> bytes:
        """Returns the content of the ``.keras`` file."""
        # Imported here, so that reading the options stays quick.
        import h5py

        arrays = io.BytesIO()
        with h5py.File(arrays, "w") as file:
            file.create_group("vars").attrs["name"] = "head"
            for group, name in _groups(self.layers):
                target = file.create_group(f"{group}/vars")
                target.attrs["name"] = name
                for number, array in enumerate(self.weights.get(name, ())):
                    target[str(number)] = array
        saved = {"keras_version": version("keras")}
        saved["date_saved"] = time.strftime("%Y-%m-%d@%H:%M:%S")
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("metadata.json", json.dumps(saved))
            archive.writestr("config.json", json.dumps(self.config()))
            archive.writestr("model.weights.h5", arrays.getbuffer())
        return whole.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> HeadGraph:
        """Reads a ``.keras`` file, of Keras or of `to_bytes`; weights only if `is_known`.

        Raises:
          Exception: of many kinds, for a damaged file.
        """
        import h5py

        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            model = json.loads(archive.read("config.json"))["config"]
            arrays = io.BytesIO(archive.read("model.weights.h5"))
        found = cls(model.get("layers", ()))
        if not found.is_known:
            # Keras will read its weights.
            return found
        with h5py.File(arrays) as file:
            for group, name in _groups(found.layers):
                held = file[f"{group}/vars"]
                if len(held):
                    found.weights[name] = [held[str(number)][()] for number in range(len(held))]
        # Weights that do not fit the layers are noticed here.
        found(np.zeros((1, *found.layers[0]["config"]["batch_shape"][1:]), np.float32))
        return found


def _groups(layers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields (path in ``model.weights.h5``, name) of each layer; Keras counts them by class."""
    taken: Counter[str] = Counter()
    for layer in layers:
        if layer["module"] != LAYERS:
            continue
        base = _snake(layer["class_name"])
        number = taken[base]
        taken[base] += 1
        yield f"layers/{base}_{number}" if number else f"layers/{base}", layer["name"]


def _snake(kind: str) -> str:
    """Returns the name that Keras derives from a class.

    Example:
      >>> _snake("UnitNormalization")
      'unit_normalization'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()


def _argument(given: Any) -> Any:
    """Returns an input of a layer as Keras writes it."""
    if isinstance(given, Tensor):
        history = [given.layer, 0, given.number]
        config = {"shape": [None, *given.shape], "dtype": given.dtype, "keras_history": history}
        return {"class_name": "__keras_tensor__", "config": config}
    if isinstance(given, slice):
        config = {"start": given.start, "stop": given.stop, "step": given.step}
        return {"class_name": "__slice__", "config": config}
    return [_argument(each) for each in given] if isinstance(given, tuple) else given


def _value(written: Any, values: Mapping[str, Sequence[np.ndarray]]) -> Any:
    """Returns an input that `_argument` wrote."""
    if isinstance(written, Mapping):
        config = written["config"]
        if written["class_name"] == "__slice__":
            return slice(config["start"], config["stop"], config["step"])
        name, _, number = config["keras_history"]
        return values[name][number]
    if isinstance(written, list):
        return tuple(_value(each, values) for each in written)
    return written
