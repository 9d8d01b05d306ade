"""What this machine has: cores, memory and GPUs, with the limits of its container."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.version import Version

from featurestore.io.cores import container_limit, cores
from featurestore.io.memory import memory
from featurestore.units import size_text
from pipelines.diagnosis.finding import ERROR, OK, WARNING, Case, Finding
from pipelines.diagnosis.packages import extra, has_module
from pipelines.extraction.share import PROCESS_BYTES

_DRIVER = Path("/proc/driver/nvidia/version")
# CUDA 12 runs on every driver from this one (CUDA Toolkit's release notes, minor version
# compatibility).
OLDEST_DRIVER = "525.60.13"


def machine_findings(case: Case) -> Iterator[Finding]:
    """Looks at cores, memory and GPUs; the workers' machines if they are elsewhere differ."""
    if not case.runs_here:
        message = "cores, memory and GPU below are this machine's, and workers run on others"
        yield Finding(OK, "machine", message)
    limit = container_limit()
    shown = "no limit" if math.isinf(limit) else f"a limit of {limit:g}"
    yield Finding(OK, "cores", f"{cores()} for this process; its container has {shown}")
    processes = 1
    if case.flag("direct_running_mode") == "multi_processing":
        processes = case.flag("direct_num_workers") or cores()
    yield from memory_findings(memory(), processes)
    driver = _DRIVER.read_text() if _DRIVER.exists() else ""
    yield from gpu_findings(glob.glob("/dev/nvidia[0-9]*"), driver, has_module("nvidia.cudnn"))


def memory_findings(total: int, processes: int) -> Iterator[Finding]:
    """Compares memory with what the worker processes need.

    Args:
      total: bytes that this machine or its container has.
      processes: number of worker processes that share them.
    """
    message = f"{size_text(total)} for {processes} worker process{'es' * (processes > 1)}"
    if total < processes * PROCESS_BYTES:
        most = max(1, total // PROCESS_BYTES)
        fix = f"--direct_num_workers={most}" if processes > 1 else "take a machine with more memory"
        message += f"; VGG16 takes about {size_text(PROCESS_BYTES)} each"
        yield Finding(WARNING, "memory", message, fix)
    else:
        yield Finding(OK, "memory", message)


def gpu_findings(devices: Sequence[str], driver: str, has_cuda: bool) -> Iterator[Finding]:
    """Says whether TensorFlow would see the GPUs of this machine.

    Args:
      devices: the NVIDIA device files.
      driver: the text of the driver's version file; "" if there is none.
      has_cuda: whether the CUDA libraries of the extra [gpu] are installed.
    """
    if not devices:
        yield Finding(OK, "gpu", "none; the base runs on the CPU")
        return
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", driver)
    name = f"{len(devices)} NVIDIA device{'s' * (len(devices) > 1)}"
    if not match:
        fix = "install NVIDIA's driver, or start the container with the NVIDIA container toolkit"
        yield Finding(ERROR, "gpu", f"{name}, but no driver", fix)
    elif Version(match[1]) < Version(OLDEST_DRIVER):
        message = f"{name} with driver {match[1]}, and CUDA 12 needs {OLDEST_DRIVER}"
        yield Finding(ERROR, "gpu", message, "install a newer driver of NVIDIA")
    elif not has_cuda:
        message = f"{name} with driver {match[1]}, but no CUDA libraries: the CPU would be used"
        yield Finding(WARNING, "gpu", message, extra("gpu"))
    else:
        yield Finding(OK, "gpu", f"{name} with driver {match[1]}")
