"""The rate of ``pipelines.score`` over images, against the extraction of the same images.

    python -m benchmarks.scoring [--images 20000] [--rounds 3]

Scoring does all that an extraction does, but runs a head over each batch and keeps its best
classes instead of the features. Both commands use the same base, MobileNetV2 at 160, pooled, in
float32. The head is trained on a store of the first images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.contenders import Bench, extraction, has_engines, timed
from benchmarks.images import write_copies, write_photographs
from benchmarks.processes import module, run_command
from benchmarks.rounds import Contender, Results, Timing, interleave
from benchmarks.tables import number, publish, table
from featurestore.cli.command import main, say

EXTRACT, SCORE = "pipelines.extract", "pipelines.score"
# Further images are copies of these with a comment of their own.
PHOTOGRAPHS = 200
FLAGS = ("--precision", "float32")


def measure(folder: Path, images: int, rounds: int, timeout: float) -> Results:
    """Times both commands on the same images, one after the other in each round.

    Args:
      folder: where everything is written.
      images: number of images.
      rounds: of both commands.
      timeout: seconds that one command may take.
    """
    base = BASES["MobileNetV2"]
    originals = write_photographs(folder / "originals", min(images, PHOTOGRAPHS))
    photos = folder / "photos"
    write_copies(originals, photos, images)
    file = write_base_apart(base, folder)
    bench = Bench(folder, originals, base, file, images, timeout, has_engines(folder))
    extraction(bench, "trained", FLAGS)
    train = ("--store", "store-trained", "--output", "run", "--head", "ridge")
    run_command(module("classifier.train", *train), folder, timeout)
    bench = Bench(folder, photos, base, file, images, timeout, bench.has_engines)
    ways = [
        Contender(EXTRACT, partial(extraction, bench, "measured", FLAGS)),
        Contender(SCORE, partial(scoring, bench)),
    ]
    return interleave(ways, rounds, lambda line: say(line, to_stderr=True))


def scoring(bench: Bench) -> Timing:
    """Scores the images with the trained run, into a new folder."""
    command = module(SCORE, "--run", "run", "--input", bench.classes, "--output", "scores")
    return timed(bench, bench.folder / "scores", command)


def report(results: Results, images: int) -> list[str]:
    """Returns the table, as lines of Markdown."""
    rows = [
        [
            name,
            number(results.median(name, "rate")),
            number(results.ratio(name, EXTRACT)),
            number(results.median(name, "whole_rate")),
            number(results.ratio(name, EXTRACT, "whole_rate")),
        ]
        for name in results.timings
    ]
    lines = [f"MobileNetV2 at 160, pooled by avg, float32, {images:,} JPEG of 500x375:", ""]
    header = ["command", "images/s", f"x {EXTRACT}", "with start-up", f"x {EXTRACT}"]
    lines += table(header, rows)
    return lines + [f"* {name}: not run: {why}" for name, why in results.reasons.items()]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.scoring", __doc__, images=20_000, rounds=3, timeout=3600)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        results = measure(Path(name), args.images, args.rounds, args.timeout)
    publish("benchmarks.scoring", report(results, args.images), args.write)
    return 0


if __name__ == "__main__":
    main(run)
