"""From scratch, on a frozen base or fine-tuned: which way classifies best, with how many images?

    python -m benchmarks.ways [--sets digits,photographs] [--per_class 5,20,60] [--seeds 3]
        [--image_size 96] [--epochs 10] [--lr 1e-4]

Each class of a set has a few training images, ten validation images, and all test images. The base
is MobileNetV2 with the real weights that ``make install`` brings. Three runs use the same images:

* from scratch: a convnet of three blocks on a store of pixels, 60 epochs;
* frozen: a linear head on the pooled features of the base, 60 epochs;
* fine-tuned: that head and the layers of the base from `CUTS` on, from stored maps.

Each keeps its best epoch by validation loss. A seed draws the images and the weights. Differences
are taken in pairs, over the same test images of all seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import add_sets, counted_parser
from benchmarks.bases import BASES, Base, write_base
from benchmarks.finetuning import CUTS, SCRATCH
from benchmarks.probing import SETS, copy_some
from benchmarks.tables import publish, table
from benchmarks.views import answer
from classifier import finetune, train
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.intervals import difference_interval
from classifier.runs.run import load_run
from featurestore import open_store
from featurestore.cli.command import main, quiet_libraries, say
from pipelines.driver import extract
from pipelines.extract import parse_options

WAYS = ("from scratch", "frozen base", "fine-tuned")
EPOCHS = "60"


def measure(folder: Path, images: Path, base: Base, seed: int, tuning: Sequence[str]) -> np.ndarray:
    """Trains the three ways; returns bool (3, n): which of the n test images each got right."""
    cut = CUTS[base.name]
    own = [*base.flags(folder.parent / "base.keras"), "--precision", "float32"]
    stores = {
        "pixels": ["--model", "pixels", "--image_size", str(base.size)],
        "features": own,
        "maps": [*own, "--layer", cut.layer, "--pooling", "none"],
    }
    for name, flags in stores.items():
        where = ["--input", str(images), "--output", str(folder / name)]
        options, _ = parse_options([*where, *flags])
        extract(options, lambda line: None, show_progress=False)

    def finish(command, store: str, run: str, *flags: str) -> np.ndarray:
        where = ("--store", str(folder / store), "--output", str(folder / run))
        return _right(answer(command, *where, *flags), folder / store)

    common = ("--epochs", EPOCHS, "--batch_size", "32", "--seed", str(seed))
    tuned = ("--run", str(folder / "frozen"), "--unfreeze", cut.unfreeze, "--allow_unconverged")
    return np.stack(
        [
            finish(train.run, "pixels", "scratch", "--head", SCRATCH, *common),
            finish(train.run, "features", "frozen", "--head", "linear", *common),
            finish(finetune.run, "maps", "tuned", *tuned, *tuning, "--seed", str(seed)),
        ]
    )


def _right(summary: dict, folder: Path) -> np.ndarray:
    """Returns bool (n,): which test images the best head classifies rightly, sorted by key."""
    rows = open_store(str(folder)).load(["features", "labels", "key"], splits=["test"])
    run = load_run(summary["run"])
    best = log_probabilities(run.logits_of(summary["best"])(rows["features"])).argmax(axis=1)
    labels = np.array([own[0] for own in rows["labels"]])
    return (np.array(run.classes)[best] == labels)[np.argsort(rows["key"])]


def report(name: str, base: Base, args: argparse.Namespace) -> list[str]:
    """Measures a set of images; returns its table, as lines of Markdown."""
    tuning = ("--epochs", str(args.epochs), "--lr", args.lr, "--optimizer", "rmsprop")
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        root = Path(scratch)
        SETS[name](root / "all")
        write_base(base, root / "base.keras")
        for per_class in map(int, args.per_class.split(",")):
            right = []
            for seed in range(args.seeds):
                folder = root / f"{per_class}-{seed}"
                folder.mkdir()
                copy_some(root / "all", folder / "images", per_class, seed)
                right.append(measure(folder, folder / "images", base, seed, tuning))
                say(f"{per_class} a class, seed {seed}: {right[-1].mean(axis=1)}", to_stderr=True)
            found = np.concatenate(right, axis=1)
            gains = [difference_interval(*found[[way + 1, way]]) for way in (0, 1)]
            shown = [
                f"{100 * gain.estimate:+.1f} ({100 * gain.lower:+.1f} to {100 * gain.upper:+.1f})"
                for gain in gains
            ]
            rows.append([str(per_class), *(f"{100 * mean:.1f}" for mean in found.mean(1)), *shown])
    header = ["images a class", *WAYS, "frozen - scratch", "fine-tuned - frozen"]
    title = (
        f"{name}, {base.title}, {args.epochs} epochs of fine-tuning at {args.lr}, {args.seeds} "
        "seeds; accuracy on the test images in %, and differences in points (95%):"
    )
    return [title, "", *table(header, rows)]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    counts = {"seeds": 3, "image_size": 96, "epochs": 10}
    parser = counted_parser("benchmarks.ways", __doc__, **counts)
    add_sets(parser, SETS)
    text = "training images per class, separated by commas (default %(default)s)"
    parser.add_argument("--per_class", default="5,20,60", help=text)
    parser.add_argument("--lr", default="1e-4", help="of fine-tuning (default %(default)s)")
    args = parser.parse_args(argv)
    base = dataclasses.replace(BASES["MobileNetV2"], size=args.image_size)
    for name in args.sets:
        publish(f"benchmarks.ways --sets {name}", report(name, base, args), args.write)
    return 0


if __name__ == "__main__":
    main(run)
