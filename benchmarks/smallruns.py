"""Processor time of whole commands on a small store, beside that of importing Keras alone.

    python -m benchmarks.smallruns [--rows 600] [--rounds 3]

The store has 1,280 features a row and 10 classes, as a pooled base leaves them.
``classifier.train`` trains one linear head with its defaults, ``classifier.evaluate`` evaluates it
on the training rows, and ``classifier.report`` writes the page. Each runs in a process of its own.
The figures are user and system time together, which other work on the machine changes less than the
time on the clock. Keras is imported whole, as your own programs import it.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.processes import module, run_command
from benchmarks.rounds import NotRun
from benchmarks.stacked import Case, made_store
from benchmarks.tables import number, publish, table
from featurestore.cli.command import main, quiet_libraries

TIMEOUT = 600
KERAS = "importing TensorFlow and Keras"


def processor_seconds(command: Sequence[str], folder: Path) -> float:
    """Runs a command; returns the processor time of its processes.

    Raises:
      NotRun: if it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = run_command(command, folder, TIMEOUT)
    if finished.code:
        raise NotRun(finished.err)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def commands() -> dict[str, list[str]]:
    """Returns what is measured, in the order in which it must run."""
    script = "from classifier.runtime import import_keras; import_keras()"
    run, store = ("--run", "run"), ("--store", "store")
    return {
        KERAS: [sys.executable, "-c", script],
        "classifier.train": module("classifier.train", *store, "--output", "run", "--overwrite"),
        "classifier.evaluate": module("classifier.evaluate", *run, *store, "--split", "train"),
        "classifier.report": module("classifier.report", *run),
    }


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    args = counted_parser("benchmarks.smallruns", __doc__, rows=600, rounds=3).parse_args(argv)
    taken: dict[str, list[float]] = {name: [] for name in commands()}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        made_store(Case("linear", (1280,), "float32", args.rows, {}, 1, ()), folder / "store")
        for _ in range(args.rounds):
            for what, command in commands().items():
                taken[what].append(processor_seconds(command, folder))
    rows = [[what, number(statistics.median(each), " s")] for what, each in taken.items()]
    title = f"{args.rows:,} rows of (1280,), medians of {args.rounds} rounds:"
    publish(
        "benchmarks.smallruns", [title, "", *table(["command", "processor time"], rows)], args.write
    )
    return 0


if __name__ == "__main__":
    main(run)
