"""Does the audit of a store find faults that were planted on purpose?

    python -m benchmarks.auditing [--sets digits] [--seeds 3]
    python -m benchmarks.auditing --rows 10000,100000,1000000 [--noise]

Into each set of images go two kinds of faults: 2% of the images get a near copy in another split (a
JPEG file of quality 70, a cut of 2% off each edge, or a mirror image, in turn), and 5% of the other
images lie in the folder of a wrong class. The features are those of MobileNetV2 at 160, pooled,
with the real weights that ``make install`` brings. ``classifier.audit`` gets the store and nothing
else.

Precision at the planted number is the share of planted faults among as many first rows of the
audit's lists as were planted. The pairs across splits count for the copies. The patches of
``--sets photographs`` are no test of precision for copies: dark patches of one photograph are
copies of each other already.

With ``--rows`` the stores hold so many made-up rows of 512 values without images, and 0.5% of them
are near copies of others. The audit, and then a search for one row, run in a process of their own
each, of which the table gives processor time and peak memory.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.arguments import add_sets, counted_parser, positive
from benchmarks.bases import BASES, write_base
from benchmarks.manyrows import report_rows
from benchmarks.probing import SETS
from benchmarks.tables import publish, table
from benchmarks.views import answer
from classifier import audit
from featurestore.cli.command import main, quiet_libraries, say
from pipelines.driver import extract
from pipelines.extract import parse_options

FLIPPED, COPIED = 0.05, 0.02
KINDS = ("jpeg", "crop", "mirror")
IMAGES, FEATURES = "images compared", "features alone"
WAYS = {IMAGES: (), FEATURES: ("--compare", "0")}
QUALITY = 70
# A cut of 2% needs pixels to cut: smaller images are enlarged first, as the base would do.
LEAST_SIDE, CUT = 200, 0.02


@dataclass(frozen=True)
class Planted:
    """The faults in a folder of images.

    Attributes:
      flipped: key of each image in a wrong folder -> its true class.
      copies: key of each near copy -> (key of its original, kind).
    """

    flipped: dict[str, str]
    copies: dict[str, tuple[str, str]]


def plant(folder: Path, seed: int) -> Planted:
    """Plants faults among images.

    Args:
      folder: of images in ``split/class/name``; some are moved, and copies are added.
      seed: of the draw.
    """
    random = np.random.default_rng(seed)
    paths = sorted(folder.glob("*/*/*.png"))
    order = random.permutation(len(paths))
    copied = round(COPIED * len(paths))
    flipped = round(FLIPPED * len(paths))
    copies = {}
    for number, index in enumerate(order[:copied]):
        kind = KINDS[number % len(KINDS)]
        path = paths[index]
        split = random.choice([p.name for p in folder.iterdir() if p.name != path.parts[-3]])
        # With its origin: images of several folders may have the same name.
        target = folder / split / path.parent.name / f"{path.stem}-{kind}-{path.parts[-3]}"
        copy = write_copy(path, target, kind)
        copies[key_of(copy, folder)] = key_of(path, folder), kind
    wrong = {}
    for index in order[copied : copied + flipped]:
        path = paths[index]
        others = sorted(p.name for p in path.parents[1].iterdir() if p.name != path.parent.name)
        name = f"{path.stem}-moved-{path.parent.name}.png"
        target = path.parents[1] / random.choice(others) / name
        path.rename(target)
        wrong[key_of(target, folder)] = path.parent.name
    return Planted(wrong, copies)


def key_of(path: Path, folder: Path) -> str:
    """Returns the key that a store gives an image."""
    return path.relative_to(folder).as_posix()


def write_copy(path: Path, target: Path, kind: str) -> Path:
    """Writes a near copy of an image; returns its path, which gets a suffix."""
    image = Image.open(path).convert("RGB")
    if kind == "jpeg":
        target = target.with_suffix(".jpg")
        image.save(target, quality=QUALITY)
        return target
    target = target.with_suffix(".png")
    if kind == "mirror":
        ImageOps.mirror(image).save(target)
        return target
    scale = max(1, -(-LEAST_SIDE // min(image.size)))
    large = image.resize((image.width * scale, image.height * scale), Image.Resampling.BILINEAR)
    x, y = round(CUT * large.width), round(CUT * large.height)
    large.crop((x, y, large.width - x, large.height - y)).save(target)
    return target


@dataclass(frozen=True)
class Hits:
    """How well a list of findings meets the planted faults.

    Attributes:
      planted: number of faults.
      found: findings in the list.
      first: faults among as many first findings as were planted.
      all: faults among all findings.
    """

    planted: int
    found: int
    first: int
    all: int

    @property
    def cells(self) -> list[str]:
        """The figures as cells of a table."""
        return [
            f"{self.planted:,}",
            f"{self.found:,}",
            f"{self.first / self.planted:.3f}",
            f"{self.all / max(self.found, 1):.3f}",
            f"{self.all / self.planted:.3f}",
        ]


def hits(found: Sequence[Any], planted: Collection[Any]) -> Hits:
    """Compares a ranked list of findings with the planted faults.

    Example:
      >>> hits(["a", "x", "b"], {"a", "b"})
      Hits(planted=2, found=3, first=1, all=2)
    """
    first = sum(item in planted for item in found[: len(planted)])
    return Hits(len(planted), len(found), first, sum(item in planted for item in found))


def measure(folder: Path, name: str, seed: int) -> dict[str, Hits]:
    """Plants faults in a set of images, and audits their store: what was sought -> its hits."""
    SETS[name](folder / "images")
    planted = plant(folder / "images", seed)
    base = BASES["MobileNetV2"]
    write_base(base, folder / "base.keras")
    where = ["--input", str(folder / "images"), "--output", str(folder / "store")]
    options, _ = parse_options([*where, *base.flags(folder / "base.keras")])
    extract(options, lambda line: None, show_progress=False)
    copies = {frozenset((copy, original)): k for copy, (original, k) in planted.copies.items()}
    found = {}
    for way, flags in WAYS.items():
        output = folder / way
        answer(audit.run, "--store", str(folder / "store"), "--output", str(output), *flags)
        pairs = [
            frozenset((row["key"], row["other_key"]))
            for row in rows_of(output / "leaks.csv")
            if row["across_splits"] == "yes"
        ]
        found[f"copies, {way}"] = hits(pairs, copies)
        for kind in KINDS if way == IMAGES else ():
            of_kind = {pair for pair, k in copies.items() if k == kind}
            reached = sum(pair in of_kind for pair in pairs)
            say(f"  {name} {seed}: {kind} {reached} of {len(of_kind)}", to_stderr=True)
        keys = [row["key"] for row in rows_of(output / "labels.csv")]
    return {**found, "labels": hits(keys, planted.flipped)}


def rows_of(path: Path) -> list[dict[str, str]]:
    """Reads a table that the audit wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def report(sets: Sequence[str], seeds: int) -> list[str]:
    """Measures all sets; returns the table, as lines of Markdown."""
    rows = []
    for name in sets:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                for what, found in measure(Path(folder), name, seed).items():
                    rows.append([name, str(seed), what, *found.cells])
    header = ["set", "seed", "sought", "planted", "found", "precision at the planted number"]
    return table([*header, "precision", "recall"], rows)


def counts(text: str) -> list[int]:
    """Reads numbers of rows, separated by commas."""
    return [positive(part) for part in text.split(",")]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    parser = counted_parser("benchmarks.auditing", __doc__, seeds=3)
    add_sets(parser, SETS, "digits")
    text = "audit made-up stores of so many rows instead, separated by commas"
    parser.add_argument("--rows", type=counts, metavar="N,N", help=text)
    text = "with --rows: rows of noise alone, the worst case"
    parser.add_argument("--noise", action="store_true", help=text)
    args = parser.parse_args(argv)
    if args.rows:
        command = f"benchmarks.auditing --rows {','.join(map(str, args.rows))}"
        lines = report_rows(args.rows, args.noise)
        publish(command + " --noise" * args.noise, lines, args.write)
        return 0
    command = f"benchmarks.auditing --sets {','.join(args.sets)} --seeds {args.seeds}"
    publish(command, report(args.sets, args.seeds), args.write)
    return 0


if __name__ == "__main__":
    main(run)
