"""Whole commands on a few hundred images: the first and the second use of a base on a machine.

    python -m benchmarks.firstuse [--images 600] [--epochs 10] [--rounds 3]

Each round runs three ways one after another on the same JPEG files (500 by 375 pixels), with the
same MobileNetV2 at 160 pixels and one head: `predict` into arrays, then `fit`
(``benchmarks.book``); then ``pipelines.extract`` and ``classifier.train`` with an empty cache
folder, and once more with what that left there. Start-up is included. Ratios are taken within a
round, and their medians printed.

The last column is the processor time, on all cores, that an extraction has taken when its first
batch of images is done. ``--plan`` is measured at second use too. Python's bytecode is compiled
before anything is measured, as it is for installed packages.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.images import write_photographs
from benchmarks.processes import ROOT, module, run_command
from benchmarks.rounds import paired_ratio
from benchmarks.tables import number, publish, table
from classifier.cachefolder import CACHE_VARIABLE
from featurestore.cli.command import main, quiet_libraries, say

TIMEOUT = 3600
BOOK, FIRST, SECOND = "`predict` into arrays, then `fit`", "first use", "second use"
PLAN = "`--plan` at second use"
# Runs an extraction, and writes the processor time of its process at its first batch into a file.
EXTRACT = """
import runpy, time
from pathlib import Path
from pipelines.watching.timing import ChunkClock
passed, file = ChunkClock.passed, Path("first-batch")
def timed(clock, images):
    if not file.exists():
        file.write_text(str(time.process_time()))
    passed(clock, images)
ChunkClock.passed = timed
runpy.run_module("pipelines.extract", run_name="__main__", alter_sys=True)
"""


def measure(folder: Path, images: int, epochs: int, rounds: int) -> dict[str, list[list[float]]]:
    """Runs all ways in rounds; returns way -> seconds per round, then processor seconds."""
    classes = write_photographs(folder / "photos", images)
    base = BASES["MobileNetV2"]
    file = write_base_apart(base, folder)
    loop = ["--folder", classes, "--base", file, "--size", base.size, "--epochs", epochs]
    book = module("benchmarks.book", *loop, "--preprocess", base.preprocess, "--pooling", "avg")
    taken: dict[str, list[list[float]]] = defaultdict(lambda: [[], []])

    def extract(way: str, output: str, *flags: str) -> float:
        command = [sys.executable, "-c", EXTRACT, "--input", "photos", "--output", output]
        seconds = run_command([*command, *base.flags(file), *flags], folder, TIMEOUT).seconds
        batch = folder / "first-batch"
        taken[way][1].append(float(batch.read_text()))
        batch.unlink()
        return seconds

    for turn in range(rounds):
        done = run_command(book, folder, TIMEOUT)
        # The program fits twice.
        taken[BOOK][0].append(done.seconds - done.report()["fit_seconds"])
        os.environ[CACHE_VARIABLE] = str(folder / f"cache-{turn}")
        for way in (FIRST, SECOND):
            store, output = f"store-{turn}-{way[:5]}", f"run-{turn}-{way[:5]}"
            seconds = extract(way, store)
            train = ["--store", store, "--output", output, "--epochs", epochs]
            seconds += run_command(module("classifier.train", *train), folder, TIMEOUT).seconds
            taken[way][0].append(seconds)
        taken[PLAN][0].append(extract(PLAN, f"planned-{turn}", "--plan"))
        shown = ", ".join(f"{way} {each[0][-1]:.1f} s" for way, each in taken.items())
        say(f"  round {turn + 1}: {shown}", to_stderr=True)
    return taken


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    parser = counted_parser("benchmarks.firstuse", __doc__, images=600, epochs=10, rounds=3)
    args = parser.parse_args(argv)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        packages = [ROOT / each for each in ("featurestore", "classifier", "pipelines")]
        run_command(module("compileall", "-q", *packages), Path(name), TIMEOUT)
        taken = measure(Path(name), args.images, args.epochs, args.rounds)
    rows = [
        [
            way,
            number(statistics.median(seconds), " s"),
            "-" if way == PLAN else number(paired_ratio(seconds, taken[BOOK][0])),
            number(statistics.median(processor) if processor else None, " s"),
        ]
        for way, (seconds, processor) in taken.items()
    ]
    header = ["way", "whole commands", f"x {BOOK}", "processor time at the first batch"]
    title = (
        f"{args.images:,} JPEG of 500x375, MobileNetV2 at 160, one head, {args.epochs} epochs, "
        f"medians of {args.rounds} rounds:"
    )
    publish("benchmarks.firstuse", [title, "", *table(header, rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
