"""What it costs to add images to a folder that is stored already.

    python -m benchmarks.growth [--images 5000] [--added 100]

The same command four times, each in a process of its own, start-up included: over a new folder;
again, with nothing new; after images were added; and over as many images in a folder of their own.
Growing should cost the images added, start-up, and a listing.

Prints the table that docs/operations.md quotes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.textbook import machine, seconds, write_photographs
from featurestore.command import Parser, main, say


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--added", type=int, default=100)
    args = parser.parse_args(argv)
    flags = "--model MobileNetV2 --weights none --pooling avg --image_size 160".split()
    extract = [sys.executable, "-m", "pipelines.extract", *flags, "--input"]
    say(f"{args.images:,} JPEG of 500x375, MobileNetV2 at 160; {machine()}\n")
    say("| command over | seconds | images computed |")
    say("|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "all", args.images + args.added)
        for path in sorted((folder / "all").rglob("*.jpg"))[-args.added :]:
            target = folder / "some" / path.relative_to(folder / "all")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)

        def measure(what: str, images: str, store: str) -> None:
            took = seconds([*extract, images, "--output", store], folder)
            rows = json.loads((folder / store / "summary.json").read_text())["ledger"]["rows"]
            say(f"| {what} | {took:.1f} | {rows:,} |")

        measure(f"{args.images:,} images", "all", "store")
        measure("the same, nothing new", "all", "store")
        for path in (folder / "some").rglob("*.jpg"):
            target = folder / "all" / path.relative_to(folder / "some")
            target.write_bytes(path.read_bytes())
        measure(f"{args.added:,} added", "all", "store")
        measure(f"those {args.added:,} alone, a new store", "some", "other")
    return 0


if __name__ == "__main__":
    main(run)
