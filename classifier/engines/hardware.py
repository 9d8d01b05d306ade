"""The engines that are installed on this machine and the precisions that it computes natively."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from classifier.engines.device import CPU, asked, sees_cuda, sees_gpu
from classifier.runtime import openvino_core
from featurestore.errors import UsageError

_CPUINFO = Path("/proc/cpuinfo")
# Processor flags that make oneDNN's convolutions native in a precision.
_FLAGS = {
    "bfloat16": frozenset({"amx_bf16", "avx512_bf16"}),
    "float16": frozenset({"amx_fp16", "avx512_fp16"}),
}
_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}


@dataclass(frozen=True)
class Hardware:
    """The capabilities of a machine.

    Attributes:
      gpu: whether TensorFlow computes on a GPU, or on the processor in its place.
      installed: which of ``openvino``, ``nncf`` and ``onnxruntime`` can be imported.
      native: engine -> low precisions that it computes natively, perhaps faster than float32.
      stands_in: whether the processor stands in for a GPU (``HOARFROST_DEVICE=cpu``).
      cuda: whether ONNX Runtime computes on a GPU, or on the processor in its place.
    """

    gpu: bool = False
    installed: frozenset[str] = frozenset()
    native: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stands_in: bool = False
    cuda: bool = False


@cache
def this_machine() -> Hardware:
    """Inspects this machine; starts TensorFlow only where there may be a GPU."""
    stands_in = asked() == CPU
    gpu = stands_in or sees_gpu()
    installed = frozenset(name for name in ("openvino", "nncf", "onnxruntime") if find_spec(name))
    if not find_spec("onnx"):
        # Which puts preprocessing and pooling into the graph.
        installed -= {"onnxruntime"}
    cuda = False
    if "onnxruntime" in installed:
        try:
            cuda = stands_in or sees_cuda()
        except UsageError:
            installed -= {"onnxruntime"}
    # Tensor cores compute both precisions; on a CPU TensorFlow uses oneDNN's kernels.
    native = {"tensorflow": ("float16", "bfloat16") if gpu else cpu_precisions(_read_cpuinfo())}
    if stands_in:
        # Without instructions for it, float16 would take minutes to measure.
        native["tensorflow"] = ("bfloat16",)
    if "openvino" in installed:
        try:
            found = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            native["openvino"] = tuple(name for name, key in _CAPABILITIES.items() if key in found)
        except UsageError:
            # An OpenVINO that cannot be loaded counts as absent.
            installed -= {"openvino"}
    return Hardware(gpu, installed, native, stands_in, cuda)


def cpu_precisions(cpuinfo: str) -> tuple[str, ...]:
    """Lists the low precisions for which a processor has instructions.

    Args:
      cpuinfo: the text of ``/proc/cpuinfo``; empty on other systems.

    Example:
      >>> cpu_precisions("flags : fpu avx512_bf16 amx_bf16")
      ('bfloat16',)
    """
    flags = set(cpuinfo.split())
    return tuple(name for name, any_of in _FLAGS.items() if any_of & flags)


def processor() -> str:
    """Returns the model and the instructions of this machine's processor, as the system says."""
    shown = ("model name", "flags", "CPU part", "Features")
    lines = [line for line in _read_cpuinfo().splitlines() if line.startswith(shown)]
    return "; ".join([platform.machine(), *(dict.fromkeys(lines) or [platform.processor()])])


def _read_cpuinfo() -> str:
    try:
        return _CPUINFO.read_text()
    except OSError:
        return ""
