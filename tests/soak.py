"""What the long tests share: how long they are, and a command that is measured and limited.

``HOARFROST_SOAK=1`` runs the tests of fuzzing, killing and faults in full; without it they do a
tenth. Run as a program, ``python tests/soak.py``, it prints what growing a store costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT, Finished, write_images

from featurestore.command import say

SOAK = bool(os.environ.get("HOARFROST_SOAK"))
SMALL = ("--model", "MobileNetV2", "--weights", "none", "--pooling", "avg", "--image_size", "32")

# A process of its own between the test and the command: the peak of a child counts what its parent
# held when it was started, and a test holds all of TensorFlow.
_LAUNCHER = """
import json, resource, subprocess, sys
limit = int(sys.argv[1])
set_limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
code = subprocess.call(sys.argv[3:], preexec_fn=set_limit)
with open(sys.argv[2], "w") as file:
    json.dump([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss], file)
"""


@dataclass(frozen=True)
class Measured(Finished):
    """What a command gave and took.

    Attributes:
      seconds: from start to end.
      peak_bytes: the most memory that one of its processes held.
    """

    seconds: float
    peak_bytes: int


def run_measured(
    *arguments: str | Path,
    cwd: Path,
    data_limit: int,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> Measured:
    """Runs ``python -m ARGUMENTS`` under a limit of memory.

    Args:
      arguments: of the command, its module first.
      cwd: the folder it works in.
      data_limit: bytes that each of its processes may allocate; beyond, allocation fails.
      timeout: seconds after which it hangs; its processes are killed then.
      environment: beside this process's own.

    Raises:
      subprocess.TimeoutExpired: when it hangs.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result")
        command = [sys.executable, "-c", _LAUNCHER, str(data_limit), str(result)]
        command += [sys.executable, "-m", *map(str, arguments)]
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, 9)
            process.wait()
            raise
        code, peak = json.loads(result.read_text())
        return Measured(code, out, err, time.monotonic() - started, peak * 1024)


def measure_growth(folder: Path, count: int, more: int) -> dict[str, float]:
    """Returns the seconds of a first run, of one after growth, and of one with nothing new.

    Args:
      folder: an empty one.
      count: images of the first run.
      more: images that come later.
    """
    arguments = ("pipelines.extract", "--input", "photos", "--output", "store", *SMALL, "--json")
    limits = {"cwd": folder, "data_limit": 16 << 30, "timeout": 3600.0}
    seconds = {}
    for name, images, rows in (("first", count, count), ("grown", more, more), ("nothing", 0, 0)):
        if images:
            write_images(folder / "photos" / name, images, seed=images)
        done = run_measured(*arguments, **limits)
        assert done.code == 0 and json.loads(done.out)["ledger"]["rows"] == rows, done
        seconds[name] = done.seconds
    return seconds


def main() -> None:
    """Prints what it costs to grow a folder of 5,000 images by 100."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure_growth(Path(folder), 5000, 100)
        grown = seconds["grown"] - seconds["nothing"]
        each = (seconds["first"] - seconds["nothing"]) / 5000
        say(f"5,000 images: {seconds['first']:.1f} s")
        say(f"100 more: {seconds['grown']:.1f} s")
        say(f"nothing new, only listed: {seconds['nothing']:.1f} s")
        say(f"beyond listing: {grown:.1f} s, {100 * each:.1f} s at the rate of the first run")


if __name__ == "__main__":
    main()
