"""Runs ONNX graphs in ONNX Runtime, on a GPU or on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from classifier.engines.device import CUDA_PROVIDER, claimed_gpu
from classifier.engines.engine import EngineChoice, check_batch, check_batch_size
from classifier.graphs.files import GraphFiles
from classifier.graphs.network import Network
from classifier.graphs.onnxgraph import PIXELS, feature_graph
from classifier.graphs.scaling import scaling_of
from classifier.runtime import import_onnxruntime, standard_error_held
from featurestore.errors import UsageError, one_line
from featurestore.spec import StoreSpec
from featurestore.taps import joined, layers_of

_CPU_PROVIDER = "CPUExecutionProvider"


def providers_of(available: Collection[str], gpu: bool, device: int = 0) -> list[Any]:
    """Returns what a session computes with, the first that can.

    Args:
      available: the providers of the installed ONNX Runtime.
      gpu: whether a GPU is to be used.
      device: its number.

    Example:
      >>> providers_of(["CUDAExecutionProvider", "CPUExecutionProvider"], gpu=False)
      ['CPUExecutionProvider']
    """
    if not gpu or CUDA_PROVIDER not in available:
        return [_CPU_PROVIDER]
    # TF32 keeps 10 of 23 bits, and a store that says float32 must not.
    options = {
        "device_id": str(device),
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(CUDA_PROVIDER, options), _CPU_PROVIDER]


def open_session(files: GraphFiles, spec: StoreSpec, threads: int, gpu: bool) -> Any:
    """Opens an ONNX file, with preprocessing and pooling, in ONNX Runtime.

    Args:
      files: of the graph.
      spec: of the features.
      threads: of one call on the CPU.
      gpu: whether to compute on this process's GPU.

    Returns:
      An `onnxruntime.InferenceSession` for batches of any size.

    Raises:
      UsageError: when ONNX Runtime cannot run the graph, or cannot use the GPU.
    """
    runtime = import_onnxruntime()
    scaling = scaling_of(spec.base.preprocess)
    network = Network(files, spec.pixels.image_size, scaling)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # Threads that wait for work in a loop would take the cores from the decoders.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = providers_of(
        runtime.get_available_providers() if gpu else (), gpu, claimed_gpu() if gpu else 0
    )
    with files.written() as path, standard_error_held():
        model = feature_graph(path, network, scaling, layers_of(spec.base))
        path.write_bytes(model.SerializeToString())
        if len(providers) > 1:
            # CUDA and cuDNN, if they were installed by pip.
            runtime.preload_dlls()
        try:
            session = runtime.InferenceSession(str(path), settings, providers=providers)
        # Its exceptions have no common class.
        except Exception as error:
            raise UsageError(
                f"--engine onnxruntime: it cannot run {files.name!r} ({one_line(error, 200)}); use "
                "--engine openvino"
            ) from error
    _require_gpu(session.get_providers(), providers)
    return session


def _require_gpu(found: Sequence[str], providers: Sequence[Any]) -> None:
    """Refuses a session that fell back to the CPU, as it does when CUDA cannot be loaded."""
    if len(providers) > 1 and CUDA_PROVIDER not in found:
        raise UsageError(
            "--engine onnxruntime: there is a GPU, and ONNX Runtime cannot load its libraries of "
            "CUDA and cuDNN; pip install 'onnxruntime-gpu[cuda,cudnn]', or set "
            "HOARFROST_DEVICE=none to compute on the processor"
        )


def out_of_memory() -> tuple[type[BaseException], ...]:
    """Returns the errors that tell that a batch does not fit into memory."""
    state = import_onnxruntime().capi.onnxruntime_pybind11_state
    return (MemoryError, state.RuntimeException, state.Fail)


class OnnxRuntimeEngine:
    """Runs an ONNX graph in ONNX Runtime, in float32.

    Args:
      session: of `open_session`; several engines can share it.
      spec: of the features.
      batch_size: images per call.
    """

    def __init__(self, session: Any, spec: StoreSpec, batch_size: int) -> None:
        check_batch_size(batch_size)
        self._session = session
        self._shape = (batch_size, *spec.pixels.image_size, 3)
        self.batch_size = batch_size
        self.feature_shape = spec.feature_shape
        self.numerics = EngineChoice("onnxruntime").numerics

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        check_batch(batch, self._shape)
        rows = self._session.run(None, {PIXELS: batch})
        return rows[0] if len(rows) == 1 else joined(rows)
