"""Which device an engine computes on, and one device per process.

``HOARFROST_DEVICE`` decides: by default a GPU where TensorFlow, or ONNX Runtime, sees one; ``none``
leaves GPUs alone; ``cpu`` treats the processor as if it were a GPU, so that everything that is done
for a GPU (large batches found by doubling, a queue before the device, low precisions as candidates)
can be tried without one. Records then say that the processor stood in.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

from classifier.runtime import import_keras, import_onnxruntime
from featurestore.errors import unknown_choice

try:
    import fcntl
except ImportError:  # Windows has no flock; there all processes use all devices.
    fcntl = None  # type: ignore[assignment]

VARIABLE = "HOARFROST_DEVICE"
AUTO, NONE, CPU = "auto", "none", "cpu"
CUDA_PROVIDER = "CUDAExecutionProvider"
_CLAIMED: list[IO[str]] = []


def asked() -> str:
    """Returns which device the user wants.

    Raises:
      UsageError: for an unknown one.
    """
    value = os.environ.get(VARIABLE, "") or AUTO
    if value not in (AUTO, NONE, CPU):
        raise unknown_choice(VARIABLE, value, (AUTO, NONE, CPU))
    return value


def sees_gpu() -> bool:
    """Whether TensorFlow may use a GPU; starts TensorFlow only where there may be one."""
    if asked() != AUTO or not _may_have_gpu():
        return False
    import_keras()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def sees_cuda() -> bool:
    """Whether ONNX Runtime may use a GPU; imports it only where there may be one."""
    if asked() != AUTO or not _may_have_gpu():
        return False
    return CUDA_PROVIDER in import_onnxruntime().get_available_providers()


def may_use_gpu() -> bool:
    """Whether workers may compute on a GPU, or on the processor in its place; starts nothing."""
    return asked() == CPU or (asked() == AUTO and _may_have_gpu())


def _may_have_gpu() -> bool:
    return sys.platform != "linux" or bool(glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/kfd"))


def prepare_devices() -> None:
    """Lets GPU memory grow and keeps float32 exact; call it before TensorFlow starts its devices.

    Without growth, the first process would take the whole memory of each GPU. TensorFlow computes
    float32 convolutions in TF32 on newer GPUs, which keeps 10 of 23 bits; a store that says float32
    must not. That is switched off at any time.

    Raises:
      RuntimeError: when TensorFlow has started its devices already.
    """
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
    if asked() != AUTO:
        tf.config.set_visible_devices([], "GPU")
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def claim_device() -> str:
    """Gives this process a GPU of its own, if there are several.

    Processes of one machine agree by locked files. A process beyond the number of GPUs shares one.

    Returns:
      The name of the GPU; "" where there is nothing to choose.
    """
    if asked() != AUTO or not _may_have_gpu():
        return ""
    import_keras()
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if len(devices) < 2:
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) == len(devices) else list(map(str, range(len(devices))))
    number = claim(names)
    try:
        tf.config.set_visible_devices(devices[number], "GPU")
    except RuntimeError:
        # The driver's own process has started its devices; it is the only worker then.
        return ""
    return devices[number].name


@cache
def claimed_gpu() -> int:
    """Gives this process a GPU for ONNX Runtime, if there are several; returns its number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else sorted(glob.glob("/dev/nvidia[0-9]*"))
    return claim(names) if len(names) > 1 else 0


def claim(names: list[str]) -> int:
    """Claims the first name that no living process of this user holds; it is held to the end.

    Args:
      names: of the devices, the same for every process.

    Returns:
      The number of the claimed name. If all are held: one by the process's number.
    """
    if fcntl is None:
        return os.getpid() % len(names)
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"hoarfrost-devices-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number, name in enumerate(names):
        lock = open(folder / f"{name.replace('/', '_')}.lock", "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _CLAIMED.append(lock)
        return number
    return os.getpid() % len(names)
