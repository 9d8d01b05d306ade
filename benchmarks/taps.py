"""What do several taps in one pass cost, against the deepest of them alone, and one by one?

    python -m benchmarks.taps [--images 100] [--rounds 3]

The taps of each base are extracted in one pass, and each in a run of its own, in this process and
in turn; every other round runs backwards. Processor time counts, which other programs of the
machine change least: of all threads, from the flags to the verdict, with everything loaded before.
The bases have the real weights that ``make install`` brings, in float32. MobileNetV2, which is
faster, gets four times the images.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base
from benchmarks.images import write_varied
from benchmarks.tables import publish, table
from featurestore.cli.command import main, quiet_libraries, say
from pipelines.driver import extract
from pipelines.extract import parse_options

# The deepest comes last.
TAPS = {
    "MobileNetV2": ("block_6_expand_relu:avg", "block_13_expand_relu:avg", "out_relu:avg"),
    "VGG16": ("block4_pool:avg", "block5_pool:avg", "block5_pool"),
}
ONE_PASS = "all in one pass"


def seconds(folder: Path, flags: Sequence[str], layers: Sequence[str], output: str) -> float:
    """Extracts layers into a new store; returns the processor time of this process."""
    flags = [*flags, *(part for layer in layers for part in ("--layer", layer))]
    started = time.process_time()
    extract(parse_options([*flags, "--output", str(folder / output)])[0], lambda line: None)
    return time.process_time() - started


def measure(name: str, images: int, rounds: int) -> dict[str, list[float]]:
    """Returns processor seconds of each round: way -> seconds."""
    base, taps = BASES[name], TAPS[name]
    ways = {ONE_PASS: taps, **{tap: (tap,) for tap in reversed(taps)}}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        folder = Path(work)
        (folder / "images").mkdir()
        write_varied(folder / "images", images)
        write_base(base, folder / "base.keras")
        flags = ["--input", str(folder / "images"), *base.flags(folder / "base.keras")]
        flags += ["--pooling", "none", "--precision", "float32"]
        for way, layers in ways.items():  # prepares and converts the bases
            seconds(folder, [*flags, "--limit", "16"], layers, f"first-{way}".replace("/", "-"))
        for number in range(rounds):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                output = f"{number}-{way}".replace("/", "-")
                found[way].append(seconds(folder, flags, ways[way], output))
                say(f"  {name} round {number}: {way} {found[way][-1]:.2f} s", to_stderr=True)
    return found


def report(images: int, rounds: int) -> list[str]:
    """Measures all bases; returns the table, as lines of Markdown."""
    rows = []
    for name, many in (("MobileNetV2", 4 * images), ("VGG16", images)):
        found = measure(name, many, rounds)
        deepest = found[TAPS[name][-1]]
        for way, spent in found.items():
            ratio = statistics.median(a / b for a, b in zip(spent, deepest, strict=True))
            cells = [f"{statistics.median(spent):.1f} s", f"{ratio:.2f}"]
            rows.append([BASES[name].title.partition(",")[0], f"{many:,}", way, *cells])
    return table(["base", "images", "taps", "processor time", "of the deepest alone"], rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    args = counted_parser("benchmarks.taps", __doc__, images=100, rounds=3).parse_args(argv)
    given = f"--images {args.images} --rounds {args.rounds}"
    publish(f"benchmarks.taps {given}", report(args.images, args.rounds), args.write)
    return 0


if __name__ == "__main__":
    main(run)
