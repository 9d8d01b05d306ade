"""Repeats what a network may spoil for a moment; speaks of all of it as `OSError`.

Clients of object stores raise exceptions of their own kinds, which no caller should have to know.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
ATTEMPTS = 5
_PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "adlfs", "azure", "requests")
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError")
# Too many requests and a request time-out are worth another try; other 4xx are not (RFC 9110).
_WORTH_RETRYING = (408, 429)


@contextmanager
def io_errors() -> Iterator[None]:
    """Turns what storage clients raise into `OSError`.

    Raises:
      PermissionError: for missing credentials and refused requests.
      FileNotFoundError: for 404.
      OSError: for everything else.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        status = getattr(error, "status", None)
        text = f"{type(error).__name__}: {_first_line(error)}"
        if status == 404:
            raise FileNotFoundError(text) from error
        refused = isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_RETRYING
        if refused or type(error).__name__ in _CREDENTIALS:
            raise PermissionError(text) from error
        raise OSError(text) from error


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Adds the path to an error of the system that names none, such as that of a full disk.

    Raises:
      OSError: the same one.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = path
        raise


def _first_line(error: Exception) -> str:
    # An aiohttp error quotes the address with its query, which may be a signature.
    message = getattr(error, "message", None) or str(error)
    return str(message).splitlines()[0] if str(message) else "no message"


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
            with io_errors():
                return call()
        except _PERMANENT:
            raise
        except OSError:
            if attempt == attempts - 1:
                raise
            # Jitter keeps many workers from coming back in step (full jitter, AWS 2015).
            time.sleep(first_wait * 2**attempt * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")
