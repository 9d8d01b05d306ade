"""Ctrl-C and SIGTERM: a command prints one line about what is kept, and leaves no process behind.

The first signal raises `KeyboardInterrupt`, so that `finally` blocks remove temporary files. Within
`abrupt` it ends the process after the calls of `at_interrupt` instead. A second signal ends the
process at once, and so does a clean-up that takes too long. Neither harms a store, which survives a
kill at any moment.
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

from featurestore.cli.logs import stderr_line

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
KEPT = "what was stored stays; give the same command again"
# Ctrl-C reaches a child process twice, directly and through its parent, but counts once.
REPEAT_SECONDS = 1.0
GRACE_SECONDS = 10.0
# The most that a process may take to stop; one that waits for a disk stops only after that.
STOP_SECONDS = 0.5


@dataclass
class _State:
    """The state of this process's interruption.

    Attributes:
      kept: tells the user what is kept, and how to resume.
      running: whether a command is running and can clean up.
      abrupt: whether the running code must not see a `KeyboardInterrupt`.
      number: the number of the first signal, 0 for none.
      moment: when it came, in seconds of the monotonic clock.
      stderr: descriptor of the user's own standard error, even if it is redirected now.
      calls: functions to call when a signal comes.
      early_calls: functions to call before child processes are ended.
    """

    kept: str = "nothing was changed yet; give the same command again"
    running: bool = False
    abrupt: bool = False
    number: int = 0
    moment: float = 0.0
    stderr: int = 2
    calls: list[Callable[[], None]] = field(default_factory=list)
    early_calls: list[Callable[[], None]] = field(default_factory=list)


_state = _State()


def listen() -> None:
    """Handles both signals, except one that is already handled or ignored (nohup)."""
    for number, untouched in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is untouched:
            signal.signal(number, _receive)


def received() -> bool:
    """Whether the user has interrupted this process, which explains any later failure."""
    return bool(_state.number)


@contextmanager
def caught(kept: str) -> Iterator[None]:
    """Runs a command; after a signal, prints the one line and ends the process.

    Args:
      kept: tells the user what is kept, and how to resume.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    listen()
    # Standard error may be redirected by the time of a signal.
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
                # The output is complete; a signal must not disturb the end of the interpreter.
                signal.signal(number, signal.SIG_IGN)
            elif handler is not signal.getsignal(number):
                signal.signal(number, handler)


@contextmanager
def abrupt() -> Iterator[None]:
    """Raises no `KeyboardInterrupt` in libraries that would log it, lose it or wait after it."""
    _state.abrupt = True
    try:
        yield
    finally:
        _state.abrupt = False


def listen_again() -> None:
    """Handles the signals of a running command again, after a library has taken one over."""
    if _state.running and threading.current_thread() is threading.main_thread():
        for number in EXIT_CODES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _receive)


@contextmanager
def at_interrupt(call: Callable[[], None], early: bool = False) -> Iterator[None]:
    """Calls `call` once as soon as a signal comes; the latest registered call goes first.

    Args:
      call: what to do.
      early: whether it needs the child processes, which `abrupt` ends.
    """
    calls = _state.early_calls if early else _state.calls
    calls.append(call)
    try:
        yield
    finally:
        calls.remove(call)


def tell(line: str) -> None:
    """Writes a line to the user's own standard error, even while it is redirected."""
    with suppress(OSError):
        os.write(_state.stderr, f"{line}\n".encode(errors="backslashreplace"))


def interrupted_line(kept: str) -> str:
    """Returns the line for the user, which names the signal unless it is Ctrl-C."""
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
    # `threading.Thread` needs locks that the interrupted code may hold.
    _thread.start_new_thread(_end_in_time, ())
    _make(_state.early_calls)
    if _state.abrupt:
        _kill_children()
    _make(_state.calls)
    if _state.abrupt:
        _end()
    raise KeyboardInterrupt


def _make(calls: list[Callable[[], None]]) -> None:
    for call in reversed(calls):
        with suppress(OSError):
            call()


def _silence() -> None:
    """Silences libraries and threads while the process shuts down."""
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda unraisable: None


def _end_in_time() -> None:
    time.sleep(GRACE_SECONDS)
    _end()


def _end() -> None:
    """Prints the line and ends the process without waiting for threads."""
    _kill_children()
    tell(stderr_line(interrupted_line(_state.kept)))
    os._exit(EXIT_CODES[signal.Signals(_state.number)])


def _kill_children() -> None:
    """Ends all child processes, if the system lists them.

    On other systems children end themselves when they notice that their parent has ended.
    """
    for child in _held_below(os.getpid()):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _held_below(process: int) -> list[int]:
    """Stops the descendants of a process, of which a shell may have some, and lists them.

    A stopped process starts no further ones, so none is missed between its listing and its end.
    """
    found = []
    with suppress(OSError):
        for listed in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(child) for child in listed.read_text().split()]
    for child in found:
        with suppress(OSError):
            _stop(child)
    return [*found, *(lower for child in found for lower in _held_below(child))]


def _stop(process: int) -> None:
    """Stops a process, and waits until it has left a call that may still start another one."""
    os.kill(process, signal.SIGSTOP)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        # Stopped, or dead.
        if state in "TtZX":
            return
        time.sleep(0.001)
