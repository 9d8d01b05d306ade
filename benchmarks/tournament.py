"""Which of the packaged bases, cut at which layer, suits handwritten digits?

    python -m benchmarks.tournament [--images 1797]

Runs ``pipelines.tournament`` on the built-in sample with MobileNetV2 at 160 and VGG16 at 180, each
also cut at an earlier layer, with the real weights that ``make install`` brings, and gives the
standings as it prints them. Rates are those of whole runs one after the other, and whatever else
the machine does at the time slows them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.processes import module, run_command
from benchmarks.tables import publish, table
from classifier.judgement.ranking import percent
from featurestore.cli.command import main, quiet_libraries
from featurestore.units import size_text
from pipelines.planning.digits import write_digits

IMAGES = 1797
EARLIER = {"MobileNetV2": "block_13_expand_relu", "VGG16": "block4_pool"}
HEADER = ("base", "accuracy (95%)", "behind the first (95%)", "p", "images/s", "hours/million")


def play(folder: Path, images: int, timeout: float = 3600) -> dict[str, Any]:
    """Runs the tournament in an empty folder; returns the content of its ``tournament.json``."""
    write_digits(folder / "digits")
    for name in EARLIER:
        write_base_apart(BASES[name], folder).rename(folder / f"{name}.keras")
    models = [f"{name}.keras{cut}" for name, early in EARLIER.items() for cut in ("", f":{early}")]
    flags = ["--input", "digits", "--output", "out", "--models", ",".join(models)]
    sample = ["--sample", images if images < IMAGES else 0]
    run_command(module("pipelines.tournament", *flags, *sample), folder, timeout)
    return json.loads((folder / "out" / "tournament.json").read_bytes())


def report(facts: dict[str, Any]) -> list[str]:
    """Lays out the standings and the advice, as lines of Markdown."""
    rows = [
        [
            row["base"].replace(".keras", ""),
            percent(row["accuracy"]),
            percent(row["difference"]) if "difference" in row else "",
            f"{row['p_value']:.2g}" if "p_value" in row else "",
            f"{row['images_per_second']:,.1f}",
            f"{row['hours_per_million']:,.1f}",
            size_text(row["bytes_per_million"]),
        ]
        for row in facts["standings"]
    ]
    first, advised = facts["standings"][0], facts["advised"].replace(".keras", "")
    last = f"{first['images']:,} images of the {first['split']} split judge. Advised: {advised}."
    return [*table([*HEADER, "bytes/million"], rows), "", last]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    args = counted_parser("benchmarks.tournament", __doc__, images=IMAGES).parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        facts = play(Path(folder), args.images)
    publish(f"benchmarks.tournament --images {args.images}", report(facts), args.write)
    return 0


if __name__ == "__main__":
    main(run)
