"""Keeps memory that TensorFlow frees and takes again at every step, instead of giving it back.

glibc returns each large block to the system when it is freed, and gets it again page by page, every
page cleared. A conv base does that with all of its feature maps at every batch: without this, a
MobileNetV2 on 2 cores takes some 130,000 page faults a second and a quarter of its time in the
kernel (`benchmarks.allocation` prints both).
"""

from __future__ import annotations

import ctypes
import os

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


def keep_freed_memory() -> bool:
    """Sets glibc's allocator to keep what is freed; elsewhere, or where the user set it, nothing.

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
