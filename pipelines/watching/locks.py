"""Locks that say whether a process lives: the operating system lets go of them, however it dies."""

from __future__ import annotations

from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no flock; what asks then goes by other signs.
    fcntl = None  # type: ignore[assignment]

SUPPORTED = fcntl is not None


def hold(path: Path, text: str = "") -> IO[str]:
    """Creates a file, locks it for this process and returns it; closing it lets go.

    Args:
      path: of the file.
      text: written into it before it is locked.
    """
    lock = open(path, "w")
    lock.write(text)
    lock.flush()
    if fcntl:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def is_held(path: Path) -> bool:
    """Whether the process that locked a file lives.

    Raises:
      FileNotFoundError: when the file is gone.
    """
    with open(path, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
