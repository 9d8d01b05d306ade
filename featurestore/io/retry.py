"""Retries storage requests after transient faults, and raises every fault as an `OSError`.

Clients of object stores raise exceptions of their own types, which callers need not know.
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
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
# The path itself is at fault: a loop of links, or a name that the file system cannot hold.
_PERMANENT_NUMBERS = (errno.ELOOP, errno.ENAMETOOLONG)
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "adlfs", "azure", "requests")
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError")
# Request timeout and too many requests; other 4xx answers are final (RFC 9110).
_WORTH_RETRYING = (408, 429)


_counting = threading.Lock()
_repeats = 0


def repeats() -> int:
    """Returns how many requests this process has repeated so far."""
    return _repeats


def _count_repeat() -> None:
    global _repeats
    with _counting:
        _repeats += 1


@contextmanager
def io_errors() -> Iterator[None]:
    """Turns the exceptions of storage clients into `OSError`.

    Raises:
      PermissionError: for missing credentials and refused requests.
      FileNotFoundError: for status 404.
      ValueError: for an address that is malformed.
      OSError: for every other fault.
    """
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__
        # fsspec over HTTP calls a malformed address "not found", too.
        if isinstance(cause, ValueError):
            raise cause from error
        if not isinstance(cause, Exception) or not _is_outage(cause):
            raise
        raise _translated(cause) from error
    except OSError:
        raise
    except Exception as error:
        if not _of_client(error):
            raise
        raise _translated(error) from error


def _of_client(error: Exception, names: Collection[str] = _CLIENTS) -> bool:
    return type(error).__module__.split(".")[0] in names


def _is_outage(cause: Exception) -> bool:
    """Whether the server did not answer, which fsspec over HTTP reports as "not found" too."""
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return status not in (404, 410)
    no_answer = isinstance(cause, OSError) and not isinstance(cause, _PERMANENT)
    return no_answer or _of_client(cause, ("aiohttp",))


def _translated(error: Exception) -> OSError:
    status = getattr(error, "status", None)
    text = f"{type(error).__name__}: {_first_line(error)}"
    if status == 404:
        return FileNotFoundError(text)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_RETRYING
    if refused or type(error).__name__ in _CREDENTIALS:
        return PermissionError(text)
    return OSError(text)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Adds the path to a system error that names no file, such as "no space left".

    Raises:
      OSError: the same error.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = path
        raise


def _first_line(error: Exception) -> str:
    # The text of an aiohttp error holds the address with its query, which may be a signature.
    message = getattr(error, "message", None) or str(error)
    return str(message).splitlines()[0] if str(message) else "no message"


def retrying(call: Callable[[], T], attempts: int = ATTEMPTS, first_wait: float = 0.2) -> T:
    """Calls `call`, and repeats it with exponential back-off after a transient I/O error.

    Args:
      call: the operation; must be safe to repeat.
      attempts: at most.
      first_wait: seconds before the second attempt; doubles with each further one.

    Raises:
      OSError: the last error, or the first that a retry cannot cure.
    """
    for attempt in range(attempts):
        try:
            with io_errors():
                return call()
        except _PERMANENT:
            raise
        except OSError as error:
            if attempt == attempts - 1 or error.errno in _PERMANENT_NUMBERS:
                raise
            _count_repeat()
            # Jitter keeps many workers from retrying in step (full jitter, AWS 2015).
            time.sleep(first_wait * 2**attempt * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")
