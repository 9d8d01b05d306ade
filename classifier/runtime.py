"""Loads engines' libraries without chatter, and keeps the memory that TensorFlow frees."""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featurestore.cli import interrupts
from featurestore.cli.absent import absent
from featurestore.cli.command import VERBOSE, quiet_libraries
from featurestore.errors import HoarfrostError, UsageError, one_line

EXTRAS = ("jax", "matplotlib", "pandas", "scipy", "sklearn")
# If you set this variable, Keras imports every optional package that it finds.
WHOLE_KERAS = "HOARFROST_WHOLE_KERAS"
# The packages that `python -m` starts; Beam starts its workers.
OURS = ("apache_beam", "classifier", "pipelines")
# Parameters of glibc's mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MEBIBYTE = 1 << 20
SETTINGS = (
    # Blocks up to this size come from the heap, which glibc keeps, instead of from mmap.
    (M_MMAP_THRESHOLD, 64 * MEBIBYTE),
    # The heap keeps up to this much free memory at its end.
    (M_TRIM_THRESHOLD, 256 * MEBIBYTE),
    (M_TOP_PAD, 64 * MEBIBYTE),
)
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def import_keras() -> Any:
    """Imports Keras with its TensorFlow backend, and shows the import's output only on failure.

    C++ writes some lines before any log level applies, so the file descriptor itself is redirected
    during the import.
    """
    quiet_libraries()
    # Your other projects may have set JAX or PyTorch as Keras's backend.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" not in sys.modules:
        if is_ours():
            keep_freed_memory()
        with standard_error_held(), _without_extras():
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
    import keras

    return keras


def import_openvino() -> Any:
    """Imports OpenVINO without its telemetry.

    OpenVINO and NNCF report their use to Google Analytics if they can import openvino_telemetry.
    They have no switch for it, so the import is blocked.

    Raises:
      UsageError: when OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise UsageError(
            f"--engine openvino: it is not installed here ({error}); pip install "
            "'hoarfrost[openvino]', or use --engine tensorflow"
        ) from error
    return openvino


@functools.cache
def openvino_core() -> Any:
    """Returns the only `openvino.Core` of this process.

    Each core gives its thread a signal stack and puts back the one before it when it ends. If two
    do not end in the reverse of their order, the thread is left with a stack that is gone, and
    Ctrl-C crashes the process (OpenVINO 2026.4).

    Raises:
      UsageError: when OpenVINO is not installed.
    """
    return import_openvino().Core()


def import_onnx() -> Any:
    """Imports the package that edits ONNX graphs.

    Raises:
      UsageError: when it is not installed.
    """
    return _of_onnx("onnx")


def import_onnxruntime() -> Any:
    """Imports ONNX Runtime, for processors or for GPUs, whichever is installed.

    Raises:
      UsageError: when neither is.
    """
    return _of_onnx("onnxruntime")


def _of_onnx(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"--engine onnxruntime: the package {name} is not installed here, or cannot be loaded "
            f"({one_line(error, 200)}); pip install 'hoarfrost[onnx]'"
        ) from error


@contextmanager
def _without_extras() -> Iterator[None]:
    """Hides `EXTRAS` from Keras's import, in processes that run our commands.

    TensorFlow and Keras use them for wrappers and galleries that no command needs, at about half of
    the import's time. A command can still import them later, as it does Matplotlib. `WHOLE_KERAS`
    switches the hiding off, and your own programs always get the whole of Keras.
    """
    if not is_ours() or os.environ.get(WHOLE_KERAS):
        yield
        return
    with absent(*EXTRAS):
        yield


def is_ours() -> bool:
    """Returns whether this process runs one of our commands, or is a worker of one."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in OURS


@contextmanager
def standard_error_held() -> Iterator[None]:
    """Holds back the standard error of this process and its children; shows it on failure."""
    if os.environ.get(VERBOSE) or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (HoarfrostError, KeyboardInterrupt):
            # The command explains these in one line.
            raise
        except BaseException:
            if not interrupts.received():
                held.seek(0)
                os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory, unless you set one of `VARIABLES` yourself.

    glibc returns each large block to the system when it is freed, and gets it back page by page,
    every page cleared. A conv base frees all of its feature maps at every batch: without this
    setting, MobileNetV2 on 2 cores takes some 130,000 page faults per second and spends a quarter
    of its time in the kernel (`benchmarks.allocation` prints both).

    Returns:
      True if the settings were applied; False also where the allocator is not glibc's.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        # musl has no mallopt; macOS and Windows have their own allocators.
        return False
    return all([mallopt(parameter, value) for parameter, value in SETTINGS])
