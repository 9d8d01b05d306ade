"""Servers and workers that a test starts, waits for and ends, each under a deadline."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 120.0


def free_port() -> int:
    """Returns a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    """Whether somebody on this machine accepts connections at a port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def await_that(
    condition: Callable[[], object], what: str, seconds: float = START_SECONDS, pause: float = 0.05
) -> None:
    """Polls until a condition holds; fails with `what` after a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(pause)


def descendants(process: int) -> list[int]:
    """Lists the ids of a process's children and of theirs."""
    found = []
    with suppress(OSError):
        for listed in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(child) for child in listed.read_text().split()]
    return [*found, *(lower for child in found for lower in descendants(child))]


def runs(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill(*processes: int) -> None:
    """Ends processes by SIGKILL; those that are gone already are no error."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def end(process: subprocess.Popen) -> None:
    """Ends a process of `started` and all that it started, by SIGKILL."""
    # Children first: once their parent is gone, /proc no longer tells whose they were.
    kill(*descendants(process.pid))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@contextmanager
def started(
    command: Sequence[object],
    port: int | None,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen]:
    """Runs a server in the background, in a process group of its own.

    Args:
      command: program and arguments.
      port: to wait for; None if the server has none.
      log: file for what the server prints.
      cwd: the folder that it runs in.
      env: variables besides this process's own.

    Yields:
      The process, which listens.
    """
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        if port is not None:
            ready = lambda: process.poll() is not None or listens(port)  # noqa: E731
            await_that(ready, f"{command[0]} listens at {port}; see {log}")
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
        yield process
    finally:
        end(process)
