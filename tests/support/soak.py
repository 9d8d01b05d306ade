"""What the long tests share: how long they are, and a command that is measured and limited.

``HOARFROST_SOAK=1`` runs the tests of fuzzing, killing and faults in full; without it they do a
tenth. Run as a program, ``PYTHONPATH=.:tests python -m support.soak``, it prints what growing a
store costs.
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

from featurestore.cli.command import say
from support.commands import ROOT, Finished
from support.images import write_images

SOAK = bool(os.environ.get("HOARFROST_SOAK"))
# With a precision: what `auto` takes hangs on the machine and, where two are close, on the moment.
SMALL = ("--model", "MobileNetV2", "--weights", "none", "--pooling", "avg", "--image_size", "32")
SMALL += ("--precision", "float32")

# A process of its own between the test and the command: the peak of a child counts what its parent
# held when it was started, and a test holds all of TensorFlow.
_LAUNCHER = """
import json, resource, subprocess, sys
limit = int(sys.argv[1])
set_limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
code = subprocess.call(sys.argv[3:], preexec_fn=set_limit)
with open(sys.argv[2], "w") as file:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    json.dump([code, used.ru_utime + used.ru_stime, used.ru_maxrss], file)
"""


@dataclass(frozen=True)
class Measured(Finished):
    """What a command gave and took.

    Attributes:
      seconds: from start to end.
      cpu_seconds: of its processes; says more than `seconds` on a busy machine.
      peak_bytes: the most memory that one of its processes held.
    """

    seconds: float
    cpu_seconds: float
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
        seconds = time.monotonic() - started
        code, cpu_seconds, peak = json.loads(result.read_text())
        return Measured(code, out, err, seconds, cpu_seconds, peak * 1024)


def measure_growth(folder: Path, count: int, more: int) -> dict[str, Measured]:
    """Measures what it costs to grow a store, beside what there is to compare it with.

    Args:
      folder: an empty one.
      count: images of the first run.
      more: images that come later.

    Returns:
      The run over `count` images, the one after `more` came, one with nothing new, and one over
      `more` images alone into another store.
    """
    runs = {}
    for name, source, images, rows in (
        ("first", "photos", count, count),
        ("grown", "photos", more, more),
        ("nothing", "photos", 0, 0),
        ("alone", "photos/grown", 0, more),
    ):
        if images:
            write_images(folder / "photos" / name, images, seed=images)
        store = "other" if name == "alone" else "store"
        command = ("pipelines.extract", "--input", source, "--output", store, *SMALL, "--json")
        done = run_measured(*command, cwd=folder, data_limit=16 << 30, timeout=3600.0)
        assert done.code == 0 and json.loads(done.out)["ledger"]["rows"] == rows, done
        runs[name] = done
    return runs


def main() -> None:
    """Prints what it costs to grow a folder of 5,000 images by 100."""
    with tempfile.TemporaryDirectory() as folder:
        runs = measure_growth(Path(folder), 5000, 100)
    for name, text in (
        ("first", "5,000 images into a new store"),
        ("grown", "the same folder and store, grown by 100 images"),
        ("alone", "those 100 images alone, into a new store"),
        ("nothing", "the grown folder again: only listed"),
    ):
        say(f"{text}: {runs[name].seconds:.1f} s, {runs[name].cpu_seconds:.1f} s of CPU")


if __name__ == "__main__":
    main()
