"""Converts a base to an OpenVINO model, packed into one file and cached.

Conversion takes seconds and the start of TensorFlow takes longer, so the result is cached: later
processes of the same base need no TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.base.stored import RESTORE
from classifier.cachefolder import CacheFolder, zipped
from classifier.engines.tensorflow import feature_graph
from classifier.runtime import import_keras, import_openvino, openvino_core
from featurestore.errors import CorruptStore, UsageError, one_line
from featurestore.spec import BaseSpec
from featurestore.taps import taps_of

if TYPE_CHECKING:
    import keras

_XML, _BIN = "model.xml", "model.bin"
CACHE = CacheFolder("openvino", (_XML, _BIN), most=16)


def convert(model: keras.Model, base_spec: BaseSpec, image_size: tuple[int, int]) -> bytes:
    """Converts a base with its preprocessing and pooling, for any batch size.

    Args:
      model: from preprocessed float32 (n, H, W, 3) to the cut layer's output.
      base_spec: its preprocessing and pooling.
      image_size: (height, width) in pixels.

    Returns:
      A packed model from uint8 (n, H, W, 3) to float32 (n, *feature_shape); with one output for
      each tap, of its name.

    Raises:
      UsageError: for a base with operations that OpenVINO does not support.
    """
    graph = _frozen_graph(model, base_spec, image_size)
    openvino = import_openvino()
    try:
        # It prints to standard output, where --json prints.
        with contextlib.redirect_stdout(io.StringIO()):
            result = openvino.convert_model(graph)
    # OpenVINO's frontends have no exception class of their own.
    except Exception as error:
        raise UsageError(
            f"--engine openvino: it cannot convert this base ({one_line(error, 200)}); use "
            "--engine tensorflow"
        ) from error
    # Conversion also makes outputs of unused branches, such as those of a custom gradient.
    outputs = [
        next(node for node in result.results if output.name in node.input_value(0).get_names())
        for output in graph.outputs
    ]
    if base_spec.taps:
        # New ones, because a layer that does nothing shares its tensor with the one before it.
        sources = [node.input_value(0) for node in outputs]
        outputs = [openvino.opset8.result(source) for source in sources]
        for node, tap in zip(outputs, base_spec.taps, strict=True):
            node.set_friendly_name(tap.name)
    return pack(openvino.Model(outputs, result.get_parameters()))


def with_taps(model: Any, base_spec: BaseSpec) -> Any:
    """Returns an OpenVINO model with the outputs of a base only.

    Args:
      model: that `convert` made of this base, or of one with more taps.
      base_spec: the base, with taps or cut at one.
    """
    if len(model.outputs) == 1:
        return model
    named = {node.get_friendly_name(): node for node in model.get_results()}
    outputs = [named[name] for name in taps_of(base_spec)]
    return import_openvino().Model(outputs, model.get_parameters())


def _frozen_graph(model: keras.Model, base_spec: BaseSpec, image_size: tuple[int, int]) -> Any:
    """Traces the graph with constants, because OpenVINO is very slow to look up variables."""
    keras = import_keras()
    import tensorflow as tf

    graph = feature_graph(model, base_spec)
    weights = [(variable, variable.numpy()) for variable in model.variables]

    @tf.function(input_signature=[tf.TensorSpec((None, *image_size, 3), tf.uint8)], autograph=False)
    def frozen(batch: Any) -> Any:
        constants = [(variable, tf.constant(array)) for variable, array in weights]
        with keras.StatelessScope(state_mapping=constants):
            return graph(batch)

    return frozen.get_concrete_function()


def pack(model: Any) -> bytes:
    """Packs an OpenVINO model into one zip; equal models give equal bytes."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        openvino.save_model(model, Path(folder) / _XML, compress_to_fp16=False)
        return zipped((name, (Path(folder) / name).read_bytes()) for name in (_XML, _BIN))


def unpack(data: bytes, where: str) -> Any:
    """Reads an OpenVINO model that `pack` wrote.

    Args:
      data: the zip.
      where: its address, for the message.

    Raises:
      CorruptStore: when the zip or the model is damaged.
    """
    openvino = import_openvino()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            xml, weights = archive.read(_XML), archive.read(_BIN)
        import numpy as np

        tensor = openvino.Tensor(np.frombuffer(weights, np.uint8))
        return openvino_core().read_model(xml, tensor)
    except (zipfile.BadZipFile, KeyError, RuntimeError) as error:
        raise CorruptStore(f"{where} cannot be read ({one_line(error, 200)}); {RESTORE}") from error


def converted(
    base_spec: BaseSpec, image_size: tuple[int, int], load: Callable[[], keras.Model]
) -> bytes:
    """Returns the packed float32 model of a base, from the cache or converted now.

    Args:
      base_spec: the base's hash, preprocessing and pooling.
      image_size: (height, width) in pixels.
      load: loads the base; called only for a conversion.
    """
    taps = ((tap.name, tap.output) for tap in base_spec.taps)
    around = (base_spec.weights_hash, base_spec.preprocess, base_spec.pooling, image_size, *taps)
    libraries = {name: version(name) for name in ("tensorflow", "keras", "openvino")}
    key = [1, around, libraries]
    data = CACHE.read(key)
    if data is None:
        data = convert(load(), base_spec, image_size)
        CACHE.keep(key, data)
    return data
