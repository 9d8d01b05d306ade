"""Loads TensorFlow without its start-up chatter."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featurestore.command import VERBOSE, quiet_libraries
from featurestore.errors import HoarfrostError


def import_keras() -> Any:
    """Returns the keras module, on TensorFlow; what the import writes shows only on failure.

    Some of the lines come from C++ before any log level is heard, so the file descriptor itself is
    turned away while the import runs.
    """
    quiet_libraries()
    # Keras would otherwise follow a JAX or PyTorch setting of the user's other projects.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" not in sys.modules:
        with standard_error_held():
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
    import keras

    return keras


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
        except HoarfrostError:
            # Explained in one line by whoever shows it.
            raise
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def cores() -> int:
    """Returns the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
