"""Locks that show whether a process lives: the operating system releases them when it dies."""

from __future__ import annotations

from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no flock; callers check `SUPPORTED`.
    fcntl = None  # type: ignore[assignment]

SUPPORTED = fcntl is not None


def hold(path: Path, text: str = "") -> IO[str]:
    """Creates a file, locks it for this process and returns it; closing it releases the lock.

    Args:
      path: of the file.
      text: content of the file.
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
