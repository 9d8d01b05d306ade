"""Repeats what a network may spoil for a moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
ATTEMPTS = 4
_PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


def retrying(call: Callable[[], T], attempts: int = ATTEMPTS, first_wait: float = 0.2) -> T:
    """Calls `call`, again with exponential back-off and jitter after a transient I/O error.

    Args:
      call: the operation; must be safe to repeat.
      attempts: how often at most.
      first_wait: seconds before the second attempt, doubled each time.

    Raises:
      OSError: the last error, or at once one that repeating cannot mend.
    """
    for attempt in range(attempts):
        try:
            return call()
        except _PERMANENT:
            raise
        except (OSError, TimeoutError):
            if attempt == attempts - 1:
                raise
            # Jitter keeps many workers from coming back in step (full jitter, AWS 2015).
            time.sleep(first_wait * 2**attempt * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")
