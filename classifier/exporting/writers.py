"""Writes a whole model in each format.

TFLite, OpenVINO and ONNX are converted from a SavedModel, because all three converters read one,
and because its signature gives the input and the output their names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.base.stored import whole_only
from classifier.exporting import about
from classifier.exporting.encoded import decode_graph, obstacle
from classifier.exporting.options import ExportOptions
from classifier.runtime import import_keras, import_openvino, standard_error_held
from featurestore.errors import UsageError, one_line
from featurestore.spec import PixelSpec

if TYPE_CHECKING:
    import keras

SERVING, SERVING_BYTES = "serving_default", "serving_bytes"
OPSET = 18
# Format -> what it imports, and the extra that installs it.
_PACKAGES = {
    "openvino": (("openvino",), "openvino"),
    "onnx": (("onnx", "tf2onnx", "onnxruntime"), "onnx"),
}


@dataclass(frozen=True)
class Package:
    """What goes into a file.

    Attributes:
      model: the whole model; behind a `graph`, what follows it.
      pixels: how its pixels are made.
      texts: what the file says of itself, by name.
      calibration: uint8 (n, H, W, 3) images for int8.
      graph: an OpenVINO model from uint8 (n, H, W, 3) to the features that `model` takes, or None.
    """

    model: keras.Model
    pixels: PixelSpec
    texts: Mapping[str, str]
    calibration: np.ndarray = field(repr=False)
    graph: Any = field(default=None, repr=False)


def require_packages(format: str) -> None:
    """Refuses a format whose packages are not installed.

    Raises:
      UsageError: naming what to install.
    """
    needed, extra = _PACKAGES.get(format, ((), ""))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {format} needs {' and '.join(missing)}, not installed here; pip install "
            f"'hoarfrost[{extra}]'"
        )


def write(package: Package, path: Path, options: ExportOptions) -> None:
    """Writes a file, or the folder of a SavedModel.

    Args:
      package: what goes into it.
      path: where nothing is yet.
      options: its format and precision.

    Raises:
      UsageError: for a base with operations that the format cannot hold.
    """
    try:
        # Converters print what does not concern users.
        with standard_error_held(), contextlib.redirect_stdout(io.StringIO()):
            _WRITERS[options.format](package, path, options)
    except (UsageError, OSError):
        raise
    # Some converters raise Exception itself.
    except Exception as error:
        raise UsageError(
            f"--format {options.format}: its converter refuses this model "
            f"({one_line(error, 200)}); choose another format"
        ) from error


def _write_keras(package: Package, path: Path, options: ExportOptions) -> None:
    if kind := next(filter(None, map(whole_only, package.model._flatten_layers())), ""):
        raise UsageError(
            f"--format keras: the base of this run is {kind}, which Keras cannot save as a part of "
            "a model; use --format savedmodel, tflite, openvino or onnx"
        )
    package.model.save(path)
    about.put_into(path, package.texts)


def _write_savedmodel(package: Package, path: Path, options: ExportOptions) -> None:
    """Writes the signature ``serving_default``, and ``serving_bytes`` where pixels can be equal."""
    import tensorflow as tf

    model, pixels = package.model, package.pixels
    height, width = pixels.image_size
    (given,) = model.inputs
    archive = import_keras().export.ExportArchive()
    archive.track(model)

    def serve(images: Any) -> dict[str, Any]:
        return {"probabilities": model(images, training=False)}

    def serve_bytes(files: Any) -> dict[str, Any]:
        images = tf.map_fn(
            lambda data: decode_graph(data, pixels), files, fn_output_signature=tf.uint8
        )
        return serve(tf.ensure_shape(images, (None, height, width, 3)))

    signature = [tf.TensorSpec(given.shape, given.dtype, name=given.name)]
    archive.add_endpoint(SERVING, serve, input_signature=signature)
    if package.graph is None and not obstacle(pixels):
        signature = [tf.TensorSpec((None,), tf.string, name="image_bytes")]
        archive.add_endpoint(SERVING_BYTES, serve_bytes, input_signature=signature)
    archive.write_out(str(path), verbose=False)
    about.put_into(path, package.texts)


@contextlib.contextmanager
def _savedmodel(package: Package, options: ExportOptions) -> Iterator[str]:
    """Yields a SavedModel in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        path = Path(folder) / "model"
        _write_savedmodel(package, path, options)
        yield str(path)


def _write_tflite(package: Package, path: Path, options: ExportOptions) -> None:
    import tensorflow as tf

    with _savedmodel(package, options) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SERVING])
        if options.precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if options.precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if options.precision == "int8":
            converter.representative_dataset = lambda: (
                {"pixels": image[None]} for image in package.calibration
            )
        path.write_bytes(converter.convert())
    about.put_into(path, package.texts)


def _write_openvino(package: Package, path: Path, options: ExportOptions) -> None:
    openvino = import_openvino()
    with _savedmodel(package, options) as folder:
        model = openvino.convert_model(folder)
        if package.graph is not None:
            model = _joined(openvino, package.graph, model)
        about.put_into_openvino(model, package.texts)
        openvino.save_model(model, path, compress_to_fp16=False)


def _joined(openvino: Any, graph: Any, rest: Any) -> Any:
    """Returns a graph and the model that follows it as one OpenVINO model."""
    outputs = [result.input_value(0) for result in graph.get_results()]
    features = outputs[0]
    if len(outputs) > 1:
        ops = openvino.opset13
        flat = [ops.reshape(output, np.array([0, -1]), True) for output in outputs]
        features = ops.concat(flat, 1).output(0)
    for target in rest.inputs[0].get_target_inputs():
        target.replace_source_output(features)
    (pixels,) = graph.get_parameters()
    pixels.output(0).set_names({"pixels"})
    return openvino.Model(rest.get_results(), [pixels], "classifier")


def _write_onnx(package: Package, path: Path, options: ExportOptions) -> None:
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    with _savedmodel(package, options) as folder:
        loaded = tf.saved_model.load(folder)
        frozen = convert_variables_to_constants_v2(loaded.signatures[SERVING])
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            input_names=[frozen.inputs[0].name],
            output_names=[frozen.outputs[0].name],
            opset=OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    _rename(model, {frozen.inputs[0].name: "pixels", frozen.outputs[0].name: "probabilities"})
    about.put_into_onnx(model, package.texts)
    onnx.save(model, str(path))


def _erfc(context: Any, node: Any, name: str, args: Any) -> None:
    """Writes Erfc, of Keras's GELU, as 1 - Erf, because ONNX has no Erfc."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    erf = context.make_node("Erf", node.input, shapes=shapes, dtypes=dtypes)
    one = context.make_const(f"{name}_one", np.float32(1))
    context.remove_node(name)
    inputs = [one.output[0], erf.output[0]]
    context.make_node("Sub", inputs, outputs=node.output, name=name, shapes=shapes, dtypes=dtypes)


def _rename(model: Any, names: Mapping[str, str]) -> None:
    """Renames tensors of an ONNX model."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for places in (node.input, node.output):
            places[:] = [names.get(name, name) for name in places]


_WRITERS: Mapping[str, Callable[[Package, Path, ExportOptions], None]] = {
    "keras": _write_keras,
    "savedmodel": _write_savedmodel,
    "tflite": _write_tflite,
    "openvino": _write_openvino,
    "onnx": _write_onnx,
}
