"""Runs a command as a user would, in a process of its own, and measures its time and memory.

Nothing is measured inside this process, because one contender's TensorFlow must not warm up
another's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import NotRun

ROOT = Path(__file__).parent.parent
POLL_SECONDS = 0.05
# A sample walks through all processes; more samples would slow down what is measured.
MEMORY_SECONDS = 1.0


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
      started: seconds since the epoch.
      seconds: from its start to its end.
      out: what it wrote to standard output.
      err: what it wrote to standard error.
      code: its exit code.
      peak_bytes: highest sampled resident memory of the process and all below it; pages that
        processes share count in each. None without psutil.
    """

    started: float
    seconds: float
    out: str
    err: str
    code: int
    peak_bytes: int | None

    def report(self) -> dict[str, Any]:
        """Returns the JSON that the command wrote as its last line.

        Raises:
          NotRun: if there is none.
        """
        try:
            return json.loads(self.out.strip().splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise NotRun(f"it printed no report: {self.out[-200:]!r}") from error


def module(name: str, *arguments: object) -> list[str]:
    """Returns the command that runs a module with this Python."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def run_command(
    command: Sequence[str],
    cwd: Path,
    timeout: float,
    watch: Callable[[], None] | None = None,
) -> Finished:
    """Runs a command to its end.

    Args:
      command: the program and its arguments.
      cwd: the folder to run it in; temporary files go there too.
      timeout: seconds after which it is killed, with all its processes.
      watch: called every 50 ms while it runs.

    Raises:
      NotRun: if it fails, with the last line that it printed, or takes too long.
    """
    meter = _memory_meter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=out,
            stderr=err,
            env=_environment(cwd),
            start_new_session=True,
        )
        try:
            peak = _wait(process, timeout, watch, meter)
            seconds = time.monotonic() - clock
        finally:
            _end(process)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        said = (texts[1].strip() or texts[0].strip() or "nothing said").splitlines()[-1]
        raise NotRun(said.removeprefix("error: ")[:300])
    return Finished(started, seconds, texts[0], texts[1], process.returncode, peak)


def _environment(cwd: Path) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TMPDIR": str(cwd),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "RAY_USAGE_STATS_ENABLED": "0",
        # OpenVINO's converter reports its use to its maker unless this is set.
        "CI": "true",
    }


def _wait(
    process: subprocess.Popen,
    timeout: float,
    watch: Callable[[], None] | None,
    meter: Callable[[int], int] | None,
) -> int | None:
    end, measured, peak = time.monotonic() + timeout, 0.0, 0
    while process.poll() is None:
        now = time.monotonic()
        if now > end:
            raise NotRun(f"it took longer than --timeout, {timeout:g} s")
        if meter and now - measured >= MEMORY_SECONDS:
            measured, peak = now, max(peak, meter(process.pid))
        if watch:
            watch()
        time.sleep(POLL_SECONDS)
    return peak if meter else None


def _end(process: subprocess.Popen) -> None:
    """Ends what is left of a command, which has a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _memory_meter() -> Callable[[int], int] | None:
    """Returns a function that adds up the resident bytes of a process and all below it."""
    try:
        import psutil
    except ImportError:
        return None

    def measure(pid: int) -> int:
        total = 0
        try:
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for member in family:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    return measure


class Stopwatch:
    """Notes the first batch in a contender's own process; reports it at the end."""

    def __init__(self) -> None:
        self._images = self._first_images = 0
        self._first_at = 0.0

    def batch(self, images: int) -> None:
        """Counts a batch whose results have arrived."""
        self._images += images
        if not self._first_images:
            self._first_images, self._first_at = images, time.time()

    def report(self) -> dict[str, Any]:
        """Returns the report; call it when every result is on disk."""
        return {
            "images": self._images,
            "first_images": self._first_images,
            "first_at": self._first_at,
            "last_at": time.time(),
        }
