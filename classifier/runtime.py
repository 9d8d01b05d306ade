"""Loads TensorFlow without its start-up chatter, and keeps the memory that it frees."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any

from featurestore.cli import interrupts
from featurestore.cli.command import VERBOSE, quiet_libraries
from featurestore.errors import HoarfrostError

EXTRAS = ("matplotlib", "pandas", "sklearn")
# Set to anything, it lets Keras import whatever it finds, as it does by itself.
WHOLE_KERAS = "HOARFROST_WHOLE_KERAS"
# What `python -m` was given; Beam's is that of worker processes.
OURS = ("apache_beam", "classifier", "pipelines")
# <malloc.h>; values as malloc_params in glibc.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MEBIBYTE = 1 << 20
SETTINGS = (
    # Blocks up to this come from the heap, which is kept, and not from mmap, which is not.
    (M_MMAP_THRESHOLD, 64 * MEBIBYTE),
    # Free memory at a heap's end is kept up to this.
    (M_TRIM_THRESHOLD, 256 * MEBIBYTE),
    (M_TOP_PAD, 64 * MEBIBYTE),
)
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def import_keras() -> Any:
    """Returns the keras module, on TensorFlow; what the import writes shows only on failure.

    Some of the lines come from C++ before any log level is heard, so the file descriptor itself is
    turned away while the import runs.
    """
    quiet_libraries()
    # Keras would otherwise follow a JAX or PyTorch setting of the user's other projects.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" not in sys.modules:
        if _is_ours():
            keep_freed_memory()
        with standard_error_held(), _without_extras():
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
    import keras

    return keras


class _Absent(MetaPathFinder):
    """Makes Keras's optional packages look as if they were not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextmanager
def _without_extras() -> Iterator[None]:
    """Keeps Keras from importing `EXTRAS`, in processes that are ours alone.

    They are for wrappers and galleries that no command of ours uses, and take 40% of the time and
    140 MB. They are hidden during this one import only: what a command imports later, such as
    Matplotlib, it gets. `WHOLE_KERAS` switches the hiding off, and a program of your own that uses
    our packages always has Keras whole.
    """
    if not _is_ours() or os.environ.get(WHOLE_KERAS):
        yield
        return
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


def _is_ours() -> bool:
    """Tells whether this process runs one of our commands, or works for one."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in OURS


@contextmanager
def standard_error_held() -> Iterator[None]:
    """Keeps what this process and its children write to standard error; shows it on failure."""
    if os.environ.get(VERBOSE):
        yield
        return
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (HoarfrostError, KeyboardInterrupt):
            # Explained in one line by whoever shows it.
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
    """Sets glibc's allocator to keep what is freed; elsewhere, or where the user set it, nothing.

    glibc returns each large block to the system when it is freed, and gets it again page by page,
    every page cleared. A conv base does that with all of its feature maps at every batch: without
    this, a MobileNetV2 on 2 cores takes some 130,000 page faults a second and a quarter of its time
    in the kernel (`benchmarks.allocation` prints both).

    Returns:
      Whether it was set.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        # Not glibc: musl has no mallopt, macOS and Windows have allocators of their own.
        return False
    return all([mallopt(parameter, value) for parameter, value in SETTINGS])
