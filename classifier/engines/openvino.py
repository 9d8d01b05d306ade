"""Runs a base in OpenVINO, on the CPU."""

from __future__ import annotations

import math
import queue
from typing import Any

import numpy as np

from classifier.engines.engine import EngineChoice, check_batch, check_batch_size
from classifier.graphs.files import reason
from classifier.runtime import import_openvino, openvino_core
from featurestore.errors import UsageError
from featurestore.taps import joined

# OpenVINO's names for the precision of layers that are not quantised.
_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "f32"}


class OpenVINOEngine:
    """Runs a converted base in OpenVINO, on the CPU.

    Each lane has a stream of its own with one thread, which was fastest. Threads are not pinned,
    because two processes would pin theirs to the same cores.

    Args:
      model: an OpenVINO model from uint8 (n, H, W, 3) to float32 (n, *feature_shape), or to several
        tensors, which are flattened and joined.
      choice: the precision, and the model's hash if it is quantised.
      image_size: (height, width) in pixels.
      batch_size: images per call.
      lanes: concurrent calls; further calls wait.
      threads: of all lanes together; 0 gives each lane one.

    Raises:
      UsageError: for a graph whose shapes do not fit a batch of this size.
    """

    def __init__(
        self,
        model: Any,
        choice: EngineChoice,
        image_size: tuple[int, int],
        batch_size: int,
        lanes: int = 1,
        threads: int = 0,
    ) -> None:
        openvino = import_openvino()
        check_batch_size(batch_size)
        self._shape = (batch_size, *image_size, 3)
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[choice.precision],
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": threads or lanes,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model.reshape(list(self._shape))
            compiled = openvino_core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise UsageError(
                f"--engine openvino: it cannot run this base ({reason(error)}); use --engine "
                "tensorflow"
            ) from error
        self.batch_size = batch_size
        shapes = [tuple(output.shape)[1:] for output in compiled.outputs]
        self.feature_shape = shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)
        self.numerics = choice.numerics
        self._tensor = openvino.Tensor
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(lanes):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        check_batch(batch, self._shape)
        # The tensor shares this memory, so the array must live until the request ends.
        pixels = np.ascontiguousarray(batch)
        request = self._requests.get()
        try:
            request.set_input_tensor(self._tensor(pixels, shared_memory=True))
            request.infer()
            # A copy, because the next call of this request overwrites the output.
            if len(request.output_tensors) == 1:
                return request.get_output_tensor().data.copy()
            return joined([tensor.data for tensor in request.output_tensors])
        finally:
            self._requests.put(request)
