"""The engine of a base's tail: from the stored maps of a layer to the features of a later one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.base import graph, layers
from classifier.base.preprocess import pool_graph
from classifier.base.stored import whole_only
from classifier.base.tail import bottlenecks, tail
from classifier.base.weights import weights_hash
from classifier.engines.tensorflow import GraphEngine
from classifier.runtime import import_keras
from featurestore.errors import UsageError
from featurestore.numerics import Numerics
from featurestore.spec import BaseSpec, StoreSpec

if TYPE_CHECKING:
    import keras


def layer_of(base: keras.Model, source: StoreSpec, where: str) -> str:
    """Finds the layer of a base whose output a store holds, by the hash of what comes before it.

    Args:
      base: a cut base, from the image on.
      source: of the store of maps.
      where: the base as the user knows it, for the message.

    Returns:
      The layer's path in `base`, whatever it is called in the store.

    Raises:
      UsageError: when no layer of the base gives the store's maps, or none that the rest of the
        base can continue from.
    """
    wanted = source.base
    if weights_hash(base) == wanted.weights_hash:
        return ""
    if kind := whole_only(base):
        raise UsageError(
            f"--input_store: the base is {kind}, which cannot be continued from a layer; give a "
            "store of its own output, one of pixels, or --input"
        )
    # The same name comes first, as it nearly always fits.
    paths = sorted(bottlenecks(base), key=lambda path: path != wanted.layer)
    for path in paths:
        names = layers.find_layer(base, path, where)
        prefix = graph.cut(base, names, source.pixels.image_size)
        same_shape = tuple(prefix.output_shape[1:]) == source.feature_shape
        if same_shape and weights_hash(prefix) == wanted.weights_hash:
            return path
    raise UsageError(
        f"--input_store: it holds maps of {wanted.label} at {wanted.layer}, and {where} gives them "
        "at no layer from which its rest can go on; give the --model and --weights of that store, "
        "and a later --layer (python -m classifier.bases marks the bottlenecks)"
    )


def tail_of(base: keras.Model, path: str) -> keras.Model:
    """Returns what follows a layer of a base; for the last layer, "", a model that does nothing."""
    if path:
        return tail(base, path)
    keras = import_keras()
    features = keras.Input(base.output_shape[1:], dtype="float32", name="features")
    return keras.Model(features, keras.layers.Identity(name="as_stored")(features), name="tail")


class TailEngine(GraphEngine):
    """Runs the tail of a base in TensorFlow.

    Args:
      model: from float32 (n, \\*shape) maps to the cut layer's output.
      base_spec: the pooling of the features.
      batch_size: rows per call.
      precision: ``float32``, ``float16`` or ``bfloat16``.
      maps: what the maps are, in words, for the numerics.
    """

    def __init__(
        self, model: keras.Model, base_spec: BaseSpec, batch_size: int, precision: str, maps: str
    ) -> None:
        import_keras()
        import tensorflow as tf

        super().__init__(model, base_spec, batch_size, precision)
        self.numerics = Numerics(**{**vars(self.numerics), "derived": maps})
        model = self.model
        pool = pool_graph(base_spec.pooling, len(model.output_shape))
        shape = (batch_size, *model.input_shape[1:])

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
        def graph(maps: Any) -> Any:
            return pool(tf.cast(model(maps, training=False), tf.float32))

        self._graph = graph.get_concrete_function()
        self._constant = tf.constant

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps rows of any float dtype to float32 (batch_size, \\*feature_shape)."""
        return self._graph(self._constant(batch.astype(np.float32))).numpy()


def maps_label(source: StoreSpec) -> str:
    """Returns what a store of maps holds, in words.

    Example:
      maps of block4_pool rounded to float16, by openvino float32
    """
    rounded = "" if source.dtype == "float32" else f" rounded to {source.dtype}"
    return f"maps of {source.base.layer}{rounded}, by {source.numerics.label}"


def require_maps(source: StoreSpec, target: BaseSpec) -> None:
    """Refuses a store whose rows a base cannot continue from, before the base is loaded.

    Raises:
      UsageError: naming what differs.
    """
    base = source.base
    if base.pooling != "none":
        raise UsageError(
            f"--input_store: its maps were pooled (--pooling {base.pooling}), so the rest of the "
            "base cannot go on from them; give a store of maps or of pixels, or --input"
        )
    if base.preprocess != target.preprocess:
        raise UsageError(
            f"--input_store: its pixels were preprocessed by {base.preprocess}, and this base's by "
            f"{target.preprocess}; give --preprocess {base.preprocess}, or another store"
        )
