"""How much memory this process may use: the machine's, and the limit of its container."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from featurestore.io.cores import GROUPS


def memory() -> int:
    """Returns the bytes of memory that this process and all others here may hold together."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, memory_limit(GROUPS) or total)


def memory_limit(folder: Path) -> int | None:
    """Returns how many bytes the container may hold; None without a limit.

    Args:
      folder: where the control groups are mounted.
    """
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            # "max" stands for no limit, and is no number.
            return int((folder / name).read_text())
    return None
