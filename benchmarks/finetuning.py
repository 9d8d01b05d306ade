"""What fine-tuning from a store costs and gives, beside the same end to end.

    python -m benchmarks.finetuning [--sets digits,photographs] [--base VGG16] [--image_size 64]
        [--per_class 20] [--epochs 10] [--lr 1e-5]

Each set has three stores of the same images: pixels, maps below the layers to train, and features
of the whole base. Heads are trained as the commands train them, so every row of the tables is a run
of classifier.train or classifier.finetune. "End to end" is the same training from pixels, through
the whole base in every epoch. Accuracies are those of the test images.

The seconds of an epoch are those of the last one, as Keras compiles in the first; those of the head
are a mean. Epochs of a frozen base end to end are two measured ones, scaled. The real weights are
those that ``make install`` brings along.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.arguments import add_sets, counted_parser
from benchmarks.bases import BASES, Base, write_base
from benchmarks.probing import SETS
from benchmarks.tables import number, publish, table
from benchmarks.views import answer
from classifier import evaluate, finetune, train
from featurestore.cli.command import main, quiet_libraries, say
from pipelines.driver import extract
from pipelines.extract import parse_options
from pipelines.finishing.verdict import Outcome


class Cut(NamedTuple):
    """Where a base is divided.

    Attributes:
      layer: where its maps are stored.
      unfreeze: the layers behind it that are trained.
    """

    layer: str
    unfreeze: str


CUTS = {"VGG16": Cut("block4_pool", "4"), "MobileNetV2": Cut("block_14_add", "18")}
HEAD_EPOCHS, COMPARED_EPOCHS = 40, 20
SCRATCH = "conv:32,64,128:dropout=0.5"


class Bench:
    """The stores of a set of images.

    Args:
      folder: where everything is written.
      name: of the set.
      base: to train.
      per_class: images per class and split.

    Attributes:
      seconds: of the extraction of the whole base's features.
    """

    def __init__(self, folder: Path, name: str, base: Base, per_class: int) -> None:
        self._folder, self._base, self._cut = folder, base, CUTS[base.name]
        SETS[name](folder / "images")
        write_base(base, folder / "base.keras")
        own = [*base.flags(folder / "base.keras"), "--precision", "float32"]
        below = ["--layer", self._cut.layer, "--pooling", "none"]
        pixels = ["--model", "pixels", "--image_size", str(base.size)]
        limit = ["--limit_per_class", str(per_class)]
        self._store("pixels", [*pixels, *limit])
        self._store("maps", [*own, *below, *limit])
        self.seconds = self._store("features", [*own, *limit])

    def _store(self, name: str, flags: Sequence[str]) -> float:
        """Extracts a store; returns the seconds from its first image on."""
        where = ["--input", str(self._folder / "images"), "--output", str(self._folder / name)]
        options, _ = parse_options([*where, *flags])
        outcome = extract(options, lambda line: None, show_progress=False)
        assert isinstance(outcome, Outcome)
        return outcome.record["seconds"]

    def train(self, store: str, *flags: str) -> dict[str, Any]:
        """Trains one head; returns the summary of the run, with ``tested``."""
        where = self._where(store, f"run-{store}-{flags[1]}".replace(":", "-"))
        return self._tested(answer(train.run, *where, *flags), store)

    def tune(self, run: str, store: str, unfreeze: str, *flags: str) -> dict[str, Any]:
        """Fine-tunes the head of a run; returns the summary of the new run, with ``tested``."""
        where = self._where(store, f"tuned-{store}-{unfreeze}")
        layers = ("--unfreeze", unfreeze, "--allow_unconverged")
        return self._tested(answer(finetune.run, "--run", run, *where, *layers, *flags), store)

    def _where(self, store: str, run: str) -> tuple[str, ...]:
        return "--store", str(self._folder / store), "--output", str(self._folder / run)

    def _tested(self, summary: dict[str, Any], store: str) -> dict[str, Any]:
        where = ("--run", summary["run"], "--store", str(self._folder / store), "--split", "test")
        return {**summary, "tested": answer(evaluate.run, *where)}


def measure(bench: Bench, base: Base, epochs: int, lr: str) -> dict[str, dict[str, Any]]:
    """Runs every way; returns the summary of each."""
    cut = CUTS[base.name]
    tuning = ("--epochs", str(epochs), "--lr", lr, "--optimizer", "rmsprop")
    steps = {
        "convnet from scratch": lambda found: bench.train(
            "pixels", "--head", SCRATCH, "--epochs", "30", "--batch_size", "32"
        ),
        "frozen base": lambda found: bench.train(
            "features", "--head", "linear", "--epochs", str(HEAD_EPOCHS), "--batch_size", "32"
        ),
        "fine-tuned from maps": lambda found: bench.tune(
            found["frozen base"]["run"], "maps", cut.unfreeze, *tuning
        ),
        "fine-tuned end to end": lambda found: bench.tune(
            found["frozen base"]["run"], "pixels", cut.unfreeze, *tuning
        ),
        "frozen base end to end": lambda found: bench.tune(
            found["frozen base"]["run"], "pixels", "0", "--epochs", "2"
        ),
    }
    found: dict[str, dict[str, Any]] = {}
    for way, work in steps.items():
        found[way] = work(found)
        say(f"{way}: {found[way]['tested']['accuracy']:.4f}", to_stderr=True)
    return found


def time_lines(found: dict[str, dict[str, Any]], extraction: float) -> list[str]:
    """Returns the table of epochs, and what the frozen base costs either way."""
    epoch = {
        way: found[way]["finetuned"]["epoch_seconds"]
        for way in ("fine-tuned from maps", "fine-tuned end to end", "frozen base end to end")
    }
    head = found["frozen base"]["leaderboard"][0]
    mean = head["seconds"] / head["epochs"]
    rows = [
        ["fine-tuning from maps", number(epoch["fine-tuned from maps"])],
        ["fine-tuning end to end", number(epoch["fine-tuned end to end"])],
        ["head on stored features", number(mean)],
        ["head on the frozen base end to end", number(epoch["frozen base end to end"])],
    ]
    ratio = epoch["fine-tuned from maps"] / epoch["fine-tuned end to end"]
    stored = extraction + COMPARED_EPOCHS * mean
    loop = COMPARED_EPOCHS * epoch["frozen base end to end"]
    even = extraction / (epoch["frozen base end to end"] - mean)
    return [
        *table(["an epoch of", "seconds"], rows),
        "",
        f"Fine-tuning from maps takes {number(ratio)} of the time of the same end to end. "
        f"Extraction ({number(extraction)} s) and {COMPARED_EPOCHS} epochs of the head take "
        f"{number(stored)} s, the frozen base end to end {number(loop)} s for {COMPARED_EPOCHS} "
        f"epochs (2 measured, scaled): {number(loop / stored)} times as long. The store pays from "
        f"epoch {math.ceil(even)} on.",
    ]


def accuracy_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the table of accuracies on the test images."""
    rows = []
    for way, summary in found.items():
        if way == "frozen base end to end":  # of two epochs, for its time only
            continue
        tested, kept = summary["tested"], summary["leaderboard"][0]
        interval = tested["interval"]
        rows.append(
            [
                way,
                f"{tested['accuracy']:.3f}",
                f"{interval['lower']:.3f} to {interval['upper']:.3f}",
                f"{kept['val_accuracy']:.3f}",
                f"{kept['best_epoch']} of {kept['epochs']}",
            ]
        )
    header = ["way", "test accuracy", "95% interval", "validation accuracy", "best epoch"]
    return table(header, rows)


def report(name: str, args: argparse.Namespace) -> list[str]:
    """Measures a set of images; returns its tables, as lines of Markdown."""
    base = dataclasses.replace(BASES[args.base], size=args.image_size)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), name, base, args.per_class)
        found = measure(bench, base, args.epochs, args.lr)
    rows = found["fine-tuned from maps"]["splits"]
    title = (
        f"{name}: {rows['train']} training, {rows['validation']} validation and {rows['test']} "
        f"test images of {len(found['frozen base']['classes'])} classes, {base.title}; "
        f"{found['fine-tuned from maps']['finetuned']['trained']:,} trained parameters, "
        f"{args.epochs} epochs of fine-tuning at {args.lr}, stores in float16:"
    )
    times = time_lines(found, bench.seconds)
    return [title, "", *accuracy_lines(found), "", *times]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    counts = {"per_class": 20, "epochs": 10, "image_size": 64}
    parser = counted_parser("benchmarks.finetuning", __doc__, **counts)
    add_sets(parser, SETS)
    parser.add_argument("--lr", default="1e-5", help="of fine-tuning (default %(default)s)")
    parser.add_argument("--base", default="VGG16", choices=list(CUTS))
    args = parser.parse_args(argv)
    for name in args.sets:
        publish(
            f"benchmarks.finetuning --sets {name} --base {args.base} --image_size "
            f"{args.image_size} --per_class {args.per_class} --epochs {args.epochs} --lr {args.lr}",
            report(name, args),
            args.write,
        )
    return 0


if __name__ == "__main__":
    main(run)
