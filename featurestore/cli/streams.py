"""Standard output and error, whose failures never change the outcome of a command.

A name that the terminal cannot encode is escaped. Output to a closed pipe, to a full disk or to a
stream that was closed from the start is dropped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from featurestore.cli.logs import stderr_line


def open_closed() -> None:
    """Connects standard streams that were closed at the start to the null device.

    Otherwise the next opened file would get a free descriptor of theirs, and everything that a
    library or a child process prints would go into that file.
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
    """Makes both streams escape what they cannot encode, such as ``\\xe9`` or ``\\udcff``."""
    for stream in (sys.stdout, sys.stderr):
        # The stream of a test or a notebook may lack the method.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def say(line: str = "", *, to_stderr: bool = False, end: str = "\n") -> None:
    """Prints one line for the user at once; ignores a reader who has gone.

    Args:
      line: the text.
      to_stderr: print to standard error instead of standard output.
      end: printed after the text.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if to_stderr:
        line = stderr_line(line)
    try:
        print(line, file=stream, end=end, flush=True)
    except OSError as error:
        _turn_away(stream)
        # The reader of a closed pipe, such as `| head -1`, has read enough.
        if not to_stderr and not isinstance(error, BrokenPipeError):
            reason = error.strerror or type(error).__name__
            say(f"note: standard output cannot be written ({reason})", to_stderr=True)


def say_unless(silent: bool) -> Callable[[str], None]:
    """Returns `say`; for a command that prints JSON only, a function that prints nothing."""
    return (lambda line: None) if silent else say


def flush() -> None:
    """Flushes both streams, so that nothing can fail while the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _turn_away(stream)


def _turn_away(stream: TextIO) -> None:
    """Connects a failing stream to the null device, which also takes its buffered text."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
