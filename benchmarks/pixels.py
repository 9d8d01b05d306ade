"""The rate of `--model pixels`, beside that of decoding alone.

    python -m benchmarks.pixels [--images 4000] [--rounds 3]

A store of pixels decodes each image and writes it, so decoding alone on all cores is its bound.
Both run in processes of their own, in turn; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import Base
from benchmarks.contenders import DECODE, Bench, alone, extraction
from benchmarks.images import write_photographs
from benchmarks.rounds import Contender, Results, interleave
from benchmarks.tables import number, publish, table
from featurestore.cli.command import main, say

STORED = "--model pixels"


@dataclass(frozen=True)
class Pixels(Base):
    """Stands for no base."""

    def flags(self, file: Path) -> list[str]:
        return ["--model", "pixels", "--image_size", str(self.size)]


def measure(images: int, rounds: int, timeout: float) -> Results:
    """Times both ways on JPEG files of 500 by 375 pixels, resized to 180 by 180."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        classes = write_photographs(folder / "photos", images)
        base = Pixels("pixels", 180, "none", "none", images)
        bench = Bench(folder, classes, base, folder, images, timeout, has_engines=True)
        ways = [
            Contender(DECODE, lambda: alone(bench, "decode")),
            Contender(STORED, lambda: extraction(bench, "pixels", [])),
        ]
        return interleave(ways, rounds, lambda line: say(line, to_stderr=True))


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.pixels", __doc__, images=4000, rounds=3, timeout=900)
    args = parser.parse_args(argv)
    results = measure(args.images, args.rounds, args.timeout)
    header = ["way", "images/s", "with start-up", "x decode alone"]
    rows = [
        [
            name,
            number(results.median(name, "rate")),
            number(results.median(name, "whole_rate")),
            number(results.ratio(name, DECODE)),
        ]
        for name in results.timings
    ]
    title = f"{args.images:,} JPEG of 500x375 to 180x180, medians of {args.rounds} rounds:"
    publish("benchmarks.pixels", [title, "", *table(header, rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
