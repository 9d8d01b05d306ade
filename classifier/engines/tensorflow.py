"""Runs a base in TensorFlow, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.base.architecture import HELD
from classifier.base.preprocess import pool_graph, pooled_shape, preprocess_graph
from classifier.engines.device import prepare_devices
from classifier.engines.engine import EngineChoice, check_batch, check_batch_size
from classifier.runtime import import_keras
from featurestore.errors import UsageError, one_line
from featurestore.spec import BaseSpec
from featurestore.taps import outputs_of

if TYPE_CHECKING:
    import keras


def limit_threads(threads: int, lanes: int = 1) -> bool:
    """Limits TensorFlow's threads and prepares its devices; call it before TensorFlow starts.

    Args:
      threads: per operation; cores divided by the processes (or lanes) that share them.
      lanes: concurrent callers, and threads of the pool that their operations share; in a smaller
        pool callers would wait for each other.

    Returns:
      False when TensorFlow had already started, and keeps its settings.
    """
    import tensorflow as tf

    try:
        prepare_devices()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(max(1, lanes))
    except RuntimeError:
        return False
    return True


def feature_graph(model: keras.Model, base_spec: BaseSpec) -> Callable[[Any], Any]:
    """Returns preprocessing, base and pooling as one function that can be traced.

    Args:
      model: from preprocessed float32 (n, H, W, 3 or 1) to the cut layer's output.
      base_spec: its preprocessing, and its pooling or its taps.

    Returns:
      A function from uint8 (n, H, W, 3) to float32 (n, *feature_shape), both tensors; with taps, to
      a list of the tensors of each tap.
    """
    tree = import_keras().tree
    import tensorflow as tf

    preprocess = preprocess_graph(base_spec.preprocess, model.input_shape[-1])
    pools = [
        (output, pool_graph(pooling, len(model.outputs[output].shape)))
        for output, pooling in outputs_of(base_spec)
    ]

    def graph(batch: Any) -> Any:
        outputs = model(preprocess(tf.cast(batch, tf.float32)), training=False)
        features = [tf.cast(each, tf.float32) for each in tree.flatten(outputs)]
        # A base in low precision gives float16 features; sums need float32.
        pooled = [pool(features[output]) for output, pool in pools]
        return pooled if base_spec.taps else pooled[0]

    return graph


def feature_shape(model: keras.Model, base_spec: BaseSpec) -> tuple[int, ...]:
    """Returns the shape of one row; of a base with taps, those of all taps joined."""
    if base_spec.taps:
        return (sum(tap.size for tap in base_spec.taps),)
    return pooled_shape(tuple(model.output_shape)[1:], base_spec.pooling)


def in_precision(model: keras.Model, precision: str) -> keras.Model:
    """Copies a base so that its layers compute in a low precision; its weights stay float32.

    Each layer gets Keras's mixed policy. Arithmetic is then the same on CPU (oneDNN) and GPU, and
    two engines of one process can differ in precision.

    Args:
      model: the base.
      precision: ``float16`` or ``bfloat16``.

    Raises:
      UsageError: for a base that cannot be rebuilt, such as a SavedModel.
    """
    keras = import_keras()
    policy = f"mixed_{precision}"

    def rebuild(layer: Any) -> Any:
        return layer.__class__.from_config({**layer.get_config(), "dtype": policy})

    def recurse(layer: Any) -> Any:
        nested = isinstance(layer, keras.Model)
        return keras.models.clone_model(layer, clone_function=recurse) if nested else rebuild(layer)

    try:
        if held := getattr(model, HELD, None):
            return held.in_policy(policy)
        if getattr(model, "packed_savedmodel", None) is not None:
            raise ValueError("a SavedModel is a finished graph")
        copy = keras.models.clone_model(model, clone_function=recurse)
        copy.set_weights(model.get_weights())
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        raise UsageError(
            f"--precision {precision}: TensorFlow cannot rebuild this base in it "
            f"({one_line(error, 200)}); use --precision float32, or --engine openvino"
        ) from error
    return copy


def out_of_memory() -> tuple[type[BaseException], ...]:
    """Returns the errors that tell that a batch does not fit into memory."""
    import tensorflow as tf

    return (MemoryError, tf.errors.ResourceExhaustedError)


class GraphEngine:
    """What engines that call a graph of TensorFlow have in common.

    Args:
      model: the base, or its tail.
      base_spec: the pooling of the features.
      batch_size: rows per call.
      precision: ``float32``, ``float16`` or ``bfloat16``.

    Attributes:
      model: in that precision. The graph does not keep the weights alive; the model does.
      feature_shape: of a row.
      numerics: of the features.
    """

    def __init__(
        self, model: keras.Model, base_spec: BaseSpec, batch_size: int, precision: str
    ) -> None:
        check_batch_size(batch_size)
        self.model = model if precision == "float32" else in_precision(model, precision)
        self.batch_size = batch_size
        self.feature_shape = feature_shape(self.model, base_spec)
        self.numerics = EngineChoice("tensorflow", precision).numerics


class TensorFlowEngine(GraphEngine):
    """Runs a base in TensorFlow, on CPU or GPU.

    XLA compiles low precisions on a GPU. That path is untested, because the development machines
    have no GPU.

    Args:
      model: from preprocessed float32 (n, H, W, 3) to the cut layer's output.
      base_spec: its preprocessing and pooling.
      image_size: (height, width) in pixels.
      batch_size: images per call.
      precision: ``float32``, ``float16`` or ``bfloat16``.
    """

    def __init__(
        self,
        model: keras.Model,
        base_spec: BaseSpec,
        image_size: tuple[int, int],
        batch_size: int,
        precision: str = "float32",
    ) -> None:
        import_keras()
        import tensorflow as tf

        super().__init__(model, base_spec, batch_size, precision)
        self._shape = (batch_size, *image_size, 3)
        # On the CPU, XLA makes MobileNetV2 five times slower and VGG16 no faster.
        compiled = precision != "float32" and bool(tf.config.list_physical_devices("GPU"))
        features = feature_graph(self.model, base_spec)

        def rows(batch: Any) -> Any:
            found = features(batch)
            if not base_spec.taps:
                return found
            return tf.concat([tf.reshape(each, (batch_size, -1)) for each in found], axis=1)

        graph = tf.function(
            rows,
            input_signature=[tf.TensorSpec(self._shape, tf.uint8)],
            jit_compile=compiled or None,
        )
        self._graph = graph.get_concrete_function()
        self._constant = tf.constant

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        check_batch(batch, self._shape)
        return self._graph(self._constant(batch)).numpy()
