"""Runs commands as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Kilobytes that a process has held at most, as an expression for a script. Not `ru_maxrss`: a child
# begins with its parent's.
PEAK = "int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Finished:
    """What a command gave."""

    code: int
    out: str
    err: str


def run_command(*arguments: str, cwd: Path, **environment: str) -> Finished:
    """Runs ``python -m ARGUMENTS`` as a user would, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=600,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def assert_one_line_error(finished: Finished, code: int, *words: str) -> None:
    """A user's mistake: one line on standard error, the exit code, no traceback."""
    assert finished.code == code, finished
    lines = finished.err.strip().splitlines()
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0], (word, lines[0])
