"""Engines: the compiled graph from uint8 pixels to stored features.

Preprocessing, base and pooling are one graph of one fixed batch size; a short batch is padded, so
that nothing is compiled twice.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import numpy as np

from classifier import pixels
from classifier.preprocess import pool_graph, pooled_shape, preprocess_graph
from classifier.runtime import import_keras
from featurestore.errors import UsageError
from featurestore.spec import BaseSpec, Numerics

if TYPE_CHECKING:
    import keras


class Engine(Protocol):
    """Runs one base; may be called from several threads at once.

    Attributes:
      batch_size: images per call, exactly.
      feature_shape: of one row.
      numerics: how the features are computed, for the store.
    """

    batch_size: int
    feature_shape: tuple[int, ...]
    numerics: Numerics

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        ...


def current_numerics() -> Numerics:
    """Returns the numerics of `TensorFlowEngine` as installed, without starting TensorFlow."""
    return Numerics(
        engine="tensorflow",
        precision="float32",
        decoder=pixels.decoder_label(),
        versions={name: version(name) for name in ("tensorflow", "keras", "numpy")},
    )


def limit_threads(threads: int, lanes: int = 1) -> bool:
    """Caps TensorFlow's threads in this process and lets GPU memory grow; call before it starts.

    Args:
      threads: per operation; cores divided by the processes (or lanes) that share them.
      lanes: callers at once. Operations of all callers share one pool of so many threads; with
        fewer, callers wait for each other.

    Returns:
      False when TensorFlow had started already and keeps what it has.
    """
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(max(1, lanes))
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
    except RuntimeError:
        return False
    return True


class TensorFlowEngine:
    """float32 by TensorFlow, on CPU or GPU.

    Args:
      model: from preprocessed float32 (n, H, W, 3) to the cut layer's output.
      base_spec: preprocessing and pooling around it.
      image_size: (height, width) in pixels.
      batch_size: images per call.
    """

    def __init__(
        self,
        model: keras.Model,
        base_spec: BaseSpec,
        image_size: tuple[int, int],
        batch_size: int,
    ) -> None:
        import_keras()
        import tensorflow as tf

        if batch_size < 1:
            raise UsageError(f"--batch_size must be at least 1, got {batch_size}")
        output_shape = tuple(model.output_shape)
        preprocess = preprocess_graph(base_spec.preprocess)
        pool = pool_graph(base_spec.pooling, len(output_shape))
        self.batch_size = batch_size
        self.feature_shape = pooled_shape(output_shape[1:], base_spec.pooling)
        self.numerics = current_numerics()
        self._shape = (batch_size, *image_size, 3)

        @tf.function(input_signature=[tf.TensorSpec(self._shape, tf.uint8)])
        def graph(batch):
            features = model(preprocess(tf.cast(batch, tf.float32)), training=False)
            # A base saved with mixed precision answers in float16.
            return pool(tf.cast(features, tf.float32))

        self._graph = graph.get_concrete_function()
        # The graph holds the weights by reference only: without the model they would be freed.
        self._model = model
        self._constant = tf.constant

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        if batch.shape != self._shape or batch.dtype != np.uint8:
            raise ValueError(
                f"the engine takes uint8 {self._shape}, got {batch.dtype} {batch.shape}"
            )
        return self._graph(self._constant(batch)).numpy()


def run_padded(engine: Engine, images: np.ndarray) -> np.ndarray:
    """Runs any number of images by padding the last batch with black ones.

    Args:
      engine: of a fixed batch size.
      images: uint8 (n, H, W, 3), n from 0.

    Returns:
      float32 (n, *feature_shape).
    """
    features = np.empty((len(images), *engine.feature_shape), np.float32)
    for start in range(0, len(images), engine.batch_size):
        part = images[start : start + engine.batch_size]
        missing = engine.batch_size - len(part)
        batch = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else part
        features[start : start + len(part)] = engine(batch)[: len(part)]
    return features
