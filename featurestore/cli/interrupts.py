"""Ctrl-C and SIGTERM: a command ends in one line that says what is kept, and leaves no process.

The first signal raises `KeyboardInterrupt`, so that temporary files are removed on the way out;
within `abrupt` it ends the process once the calls of `at_interrupt` are done. A second one ends it
at once, as does a way out that takes too long: what is stored is safe from a kill at any moment.
"""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
KEPT = "what was stored stays; give the same command again"
# Ctrl-C reaches a child directly and through its parent: that is one wish.
REPEAT_SECONDS = 1.0
GRACE_SECONDS = 10.0


@dataclass
class _State:
    """What this process knows of its interruption.

    Attributes:
      kept: what is kept and how to go on, for the user.
      running: whether a command runs, and can clean up.
      abrupt: whether the code that runs must not see a `KeyboardInterrupt`.
      number: of the first signal, 0 for none.
      moment: when it came, in seconds of a clock that only goes forward.
      stderr: the user's own standard error, whatever stands in for it now.
      calls: what is to be done at once.
    """

    kept: str = "nothing was changed yet; give the same command again"
    running: bool = False
    abrupt: bool = False
    number: int = 0
    moment: float = 0.0
    stderr: int = 2
    calls: list[Callable[[], None]] = field(default_factory=list)


_state = _State()


def listen() -> None:
    """Takes over both signals, where nobody else has: they may be ignored on purpose (nohup)."""
    for number, untouched in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is untouched:
            signal.signal(number, _receive)


def received() -> bool:
    """Whether the user has interrupted this process; what fails from then on is its consequence."""
    return bool(_state.number)


@contextmanager
def caught(kept: str) -> Iterator[None]:
    """Runs a command that a signal may interrupt; the process then ends here, in one line.

    Args:
      kept: what is kept and how to go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    listen()
    # Standard error may be turned away when the line is due.
    _state.kept, _state.stderr = kept, os.dup(2)
    _state.running = True
    try:
        yield
    finally:
        _state.running = False
        if _state.number:
            _end()
        os.close(_state.stderr)
        _state.stderr = 2
        for number, handler in before.items():
            if handler is _receive:
                # The answer is out; while the interpreter ends, a signal must not change it.
                signal.signal(number, signal.SIG_IGN)
            elif handler is not signal.getsignal(number):
                signal.signal(number, handler)


@contextmanager
def abrupt() -> Iterator[None]:
    """Keeps `KeyboardInterrupt` out of libraries that log it, lose it, or wait on their way out."""
    _state.abrupt = True
    try:
        yield
    finally:
        _state.abrupt = False


@contextmanager
def at_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """Calls `call` once when a signal comes, the latest first, before anything else is done."""
    _state.calls.append(call)
    try:
        yield
    finally:
        _state.calls.remove(call)


def interrupted_line(kept: str) -> str:
    """Returns what the user reads: the signal where it is not Ctrl-C, and what is kept."""
    by = " by SIGTERM" if _state.number == signal.SIGTERM else ""
    return f"interrupted{by}: {kept}"


def _receive(number: int, frame: object) -> None:
    again = _state.number and time.monotonic() - _state.moment > REPEAT_SECONDS
    if again or not _state.running:
        _state.number = _state.number or number
        _end()
    if _state.number:
        return
    _state.number, _state.moment = number, time.monotonic()
    _silence()
    # Not `threading.Thread`: it takes locks that the interrupted code may hold.
    _thread.start_new_thread(_end_in_time, ())
    if _state.abrupt:
        _kill_children()
    for call in reversed(_state.calls):
        with suppress(OSError):
            call()
    if _state.abrupt:
        _end()
    raise KeyboardInterrupt


def _silence() -> None:
    """Keeps to themselves what libraries and threads say while everything is pulled down."""
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda unraisable: None


def _end_in_time() -> None:
    time.sleep(GRACE_SECONDS)
    _end()


def _end() -> None:
    """Says the line and ends the process; threads that are still at work are not awaited."""
    _kill_children()
    with suppress(OSError):
        os.write(
            _state.stderr, f"{interrupted_line(_state.kept)}\n".encode(errors="backslashreplace")
        )
    os._exit(EXIT_CODES[signal.Signals(_state.number)])


def _kill_children() -> None:
    """Ends the processes below this one, where the system lists them.

    Elsewhere they end themselves: they watch for the end of the process that started them.
    """
    for child in _below(os.getpid()):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _below(process: int) -> list[int]:
    """Lists the children of a process and theirs: a shell may stand between."""
    found = []
    with suppress(OSError):
        for listed in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(child) for child in listed.read_text().split()]
    return [*found, *(lower for child in found for lower in _below(child))]
