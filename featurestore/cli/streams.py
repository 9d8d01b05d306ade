"""Standard output and error: whatever they are connected to, they never decide an outcome.

A name that the terminal cannot encode is shown escaped, and nothing is shown where nobody listens
(a closed pipe, a full disk behind a redirection, a stream that was closed at the start).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO


def open_closed() -> None:
    """Connects the streams that this process was started without to the null device.

    Otherwise the next file that is opened takes the free number, and what a library or a child
    process prints goes into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def escape_names() -> None:
    """Makes both streams show what they cannot encode escaped, such as ``\\xe9`` or ``\\udcff``."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that a test or a notebook put there need not have the method.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def say(line: str = "", *, to_stderr: bool = False, end: str = "\n") -> None:
    """Prints one line for the user, at once; goes on when nobody listens any more.

    Args:
      line: the text.
      to_stderr: whether standard error gets it.
      end: what follows the text.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        print(line, file=stream, end=end, flush=True)
    except OSError as error:
        _turn_away(stream)
        # A closed pipe is somebody who has read enough, as of `| head -1`.
        if not to_stderr and not isinstance(error, BrokenPipeError):
            reason = error.strerror or type(error).__name__
            say(f"note: standard output cannot be written to ({reason})", to_stderr=True)


def say_unless(silent: bool) -> Callable[[str], None]:
    """Returns `say`; for a command that prints JSON only, a function that prints nothing."""
    return (lambda line: None) if silent else say


def flush() -> None:
    """Writes out what the streams hold, so that nothing can fail while the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _turn_away(stream)


def _turn_away(stream: TextIO) -> None:
    """Connects a stream that fails to the null device; what it still holds goes there too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
