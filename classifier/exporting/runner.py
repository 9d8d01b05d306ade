"""Runs an exported file as a stranger would: with its framework, and without any of our code.

``python -P runner.py FORMAT PATH`` answers batches on standard input until it is closed. A request
is four little-endian uint32 (n, H, W, 3) and the uint8 pixels; an answer is the seconds as a
float64, two uint32 (n, classes) and the float32 probabilities.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

REQUEST, ANSWER = struct.Struct("<4I"), struct.Struct("<d2I")
Predict = Callable[[np.ndarray], np.ndarray]


def keras(path: str, trusted: bool) -> Predict:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    model: Any = keras.models.load_model(path, compile=False, safe_mode=not trusted)
    return model.predict_on_batch


def savedmodel(path: str, trusted: bool) -> Predict:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def predict(pixels: np.ndarray) -> np.ndarray:
        # Looked up here, because a signature does not keep its weights alive; `loaded` does.
        serve = loaded.signatures["serving_default"]
        return serve(pixels=tf.constant(pixels))["probabilities"].numpy()

    return predict


def tflite(path: str, trusted: bool) -> Predict:
    try:
        from ai_edge_litert import interpreter as lite
    except ImportError:
        from tensorflow import lite
    runner = lite.Interpreter(model_path=path, num_threads=os.cpu_count()).get_signature_runner()
    return lambda pixels: runner(pixels=pixels)["probabilities"]


def openvino(path: str, trusted: bool) -> Predict:
    # Without this it reports its use to its makers.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    # Newer processors would compute in bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda pixels: compiled(pixels)["probabilities"]


def onnx(path: str, trusted: bool) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"pixels": pixels})[0]


LOADERS: dict[str, Callable[[str, bool], Predict]] = {
    "keras": keras,
    "savedmodel": savedmodel,
    "tflite": tflite,
    "openvino": openvino,
    "onnx": onnx,
}


def main(format: str, path: str, trusted: str) -> None:
    """Loads the file, says "ready", and answers batches."""
    answers = os.fdopen(os.dup(1), "wb")
    # What libraries print goes to standard error, because answers must not be mixed with it.
    os.dup2(2, 1)
    predict = LOADERS[format](path, trusted == "yes")
    answers.write(b"ready")
    answers.flush()
    serve(predict, sys.stdin.buffer, answers)


def serve(predict: Predict, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers batches until there are no more."""
    while header := requests.read(REQUEST.size):
        shape = REQUEST.unpack(header)
        data = requests.read(int(np.prod(shape)))
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        started = time.perf_counter()
        found = np.ascontiguousarray(predict(pixels), np.float32)
        answers.write(ANSWER.pack(time.perf_counter() - started, *found.shape))
        answers.write(found.tobytes())
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
