"""Rate and memory for ten times the images and for two processes, and time to the first image.

    python -m benchmarks.scaling [--images 2000] [--times 10] [--rounds 2]

The base is MobileNetV2 at 160, pooled, in ``pipelines.extract`` with its defaults. Ten times the
images are the same photographs with another comment in each file: they are as costly to decode, and
no two are equal.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES
from benchmarks.contenders import TWO_PROCESSES, Bench, extraction
from benchmarks.images import write_copies
from benchmarks.rounds import Contender, Results, interleave
from benchmarks.tables import number, publish, table
from benchmarks.throughput import Settings, prepared
from featurestore.cli.command import main, say

ONE, TWO = "one process", "two processes of half the threads"


def measure(folder: Path, settings: Settings, times: int) -> Results:
    """Times one and two processes on `settings.images`, and one process on `times` as many.

    Args:
      folder: where everything is written.
      settings: of the measurement; `only` is not used.
      times: factor of the long run.
    """
    few = prepared(folder, BASES["MobileNetV2"], settings)
    copies = folder / "copies"
    write_copies(few.classes, copies, few.images * times)
    many = dataclasses.replace(few, classes=copies, images=few.images * times)
    return interleave(
        [
            _contender(ONE, few),
            _contender(TWO, few, *TWO_PROCESSES),
            _contender(many_name(few.images * times), many),
        ],
        settings.rounds,
        lambda line: say(line, to_stderr=True),
    )


def many_name(images: int) -> str:
    """Returns the name of the long run in the table."""
    return f"{ONE}, {images:,} images"


def report(results: Results, images: int, times: int) -> list[str]:
    """Returns the table, as lines of Markdown."""
    rows = []
    for name in results.timings:
        peak, ratio = results.median(name, "peak_bytes"), results.ratio(name, ONE, "peak_bytes")
        rows.append(
            [
                name,
                number(results.median(name, "rate")),
                number(results.ratio(name, ONE)),
                number(results.median(name, "whole_rate")),
                number(results.median(name, "first_seconds"), " s"),
                number(peak / 2**30 if peak else None, " GiB"),
                number(ratio),
            ]
        )
    header = ["way", "images/s", "x one process", "with start-up", "first image", "peak memory"]
    lines = [f"MobileNetV2 at 160, pooled by avg, {images:,} and {images * times:,} JPEG:", ""]
    lines += table([*header, "x one process"], rows)
    return lines + [f"* {name}: not run: {why}" for name, why in results.reasons.items()]


def _contender(name: str, bench: Bench, *flags: str) -> Contender:
    return Contender(name, lambda: extraction(bench, "scaling", flags))


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    counts = {"images": 2000, "times": 10, "rounds": 2, "timeout": 1800}
    parser = counted_parser("benchmarks.scaling", __doc__, **counts)
    args = parser.parse_args(argv)
    settings = Settings(args.images, args.rounds, timeout=args.timeout)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        results = measure(Path(name), settings, args.times)
    publish("benchmarks.scaling", report(results, args.images, args.times), args.write)
    return 0


if __name__ == "__main__":
    main(run)
