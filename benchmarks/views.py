"""What augmented views in the store add to accuracy, and what they cost.

    python -m benchmarks.views [--sets digits,photographs] [--per_class 5] [--epochs 30]
        [--seeds 3] [--augment rotation=0.05,zoom=0.1,translation=0.1]

Each class of scikit-learn's digits, or of patches of photographs, has a few training images, ten
validation images, and all test images. The base is MobileNetV2 at 160 with the real weights that
``make install`` brings; the head is linear. For each number of views, a store is extracted and a
head trained, as the commands do it. ``--augment`` chooses the views. The default for digits, which
must not be mirrored, is mild; the default for photographs is that of the Keras book.

The end-to-end loop is the Keras book's: Keras's augmentation layers, the frozen base and the head
are fitted together for as many epochs. The head is the same, is standardised alike, and is also
kept from its best epoch. A seed draws the images, the views and the weights.

Seconds of an extraction and of a training are those of their records, with the libraries loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import add_sets, counted_parser
from benchmarks.augmenting import BestHead, read_images, stored_rows
from benchmarks.bases import BASES, write_base
from benchmarks.probing import SETS, copy_some
from benchmarks.tables import NOTHING, number, publish, table
from classifier import evaluate, train
from classifier.base.stored import load_base
from classifier.heads.head import Moments, dense_head, outputs_for
from classifier.heads.network.augmentation import augmentation
from classifier.heads.options import Trial
from classifier.heads.spec import HeadSpec
from classifier.heads.stacked.stack import initial_weights
from classifier.pixels.views import BOOK, parse_augment
from classifier.runtime import import_keras
from featurestore import FeatureStore
from featurestore.cli.command import main, quiet_libraries, say
from featurestore.errors import UsageError
from pipelines.driver import extract
from pipelines.extract import parse_options
from pipelines.finishing.verdict import Outcome

VIEWS = (1, 2, 4, 8)
LOOP = "end to end"
MILD = "rotation=0.05,zoom=0.1,translation=0.1"
BASE = BASES["MobileNetV2"]
AUGMENT = {"digits": MILD, "photographs": BOOK}
BATCH_SIZE, LEARNING_RATE = 10, 3e-3


@dataclass(frozen=True)
class Result:
    """The result of one way with one seed.

    Attributes:
      accuracy: on the test images, a fraction.
      rows: stored rows of all splits.
      store_bytes: size of the parts.
      extraction: seconds of the extraction.
      training: seconds of the training.
    """

    accuracy: float
    rows: int = 0
    store_bytes: int = 0
    extraction: float = 0.0
    training: float = 0.0


class Bench:
    """The images and the base, and the ways to train on them.

    Args:
      folder: where everything is written.
      name: of the set of images.
      augment: the steps of the views and of the loop.
      epochs: of each fit.
      per_class: number of training images per class.

    Attributes:
      classes: their sorted names.
    """

    def __init__(self, folder: Path, name: str, augment: str, epochs: int, per_class: int) -> None:
        self._folder, self._augment = folder, augment
        self._epochs, self._per_class = epochs, per_class
        self._all, self._base = folder / "all", folder / "base.keras"
        SETS[name](self._all)
        self.classes = tuple(sorted(path.name for path in (self._all / "train").iterdir()))
        write_base(BASE, self._base)

    def images(self, seed: int) -> Path:
        """Returns a folder with all test images and some training and validation images."""
        folder = self._folder / f"images-{seed}"
        if not folder.exists():
            copy_some(self._all, folder, self._per_class, seed)
        return folder

    def stored(self, views: int, seed: int) -> tuple[Result, FeatureStore]:
        """Extracts a store with so many views per image, and trains a head on it."""
        name = str(self._folder / f"store-{views}-{seed}")
        augment = ["--augment", self._augment] if views > 1 else []
        options, _ = parse_options(
            [
                *("--input", str(self.images(seed)), "--output", name),
                *(*BASE.flags(self._base), "--views", str(views), *augment, "--seed", str(seed)),
            ]
        )
        outcome = extract(options, lambda line: None, show_progress=False)
        assert isinstance(outcome, Outcome)
        run_folder = str(self._folder / f"run-{views}-{seed}")
        trained = answer(
            train.run,
            *("--store", name, "--output", run_folder, "--epochs", str(self._epochs)),
            *("--batch_size", str(BATCH_SIZE), "--lr", str(LEARNING_RATE), "--seed", str(seed)),
        )
        tested = answer(evaluate.run, "--run", run_folder, "--store", name)
        rows = outcome.record["ledger"]["rows"] + outcome.record["augmented"]
        size = sum(marker.part_bytes for marker in outcome.store.markers().values())
        seconds = outcome.record["seconds"], trained["seconds"]
        return Result(tested["accuracy"], rows, size, *seconds), outcome.store

    def end_to_end(self, store: FeatureStore, seed: int) -> Result:
        """Fits augmentation, frozen base and head together.

        Args:
          store: of one view; its rows validate, test and standardise.
          seed: of this run.
        """
        keras = import_keras()
        keras.utils.set_random_seed(seed)
        images = read_images(self.images(seed) / "train", store, self.classes)
        started = time.perf_counter()
        moments = Moments(store.spec.feature_shape[-1])
        moments.update(store.load(["features"], splits=["train"], views=[0])["features"])
        shape = store.spec.feature_shape
        outputs = outputs_for(self.classes)
        weights = initial_weights(Trial(HeadSpec(), seed=seed), math.prod(shape), outputs)
        network = dense_head(HeadSpec(), shape, weights, standard=moments.standard())
        file = self._folder / "head.keras"
        file.write_bytes(network.to_bytes())
        head = keras.models.load_model(file, compile=False)
        with store.local_model() as path:
            base = load_base(path, store.spec.base)
        base.trainable = False
        model = keras.Sequential(
            [
                keras.Input(images[0].shape[1:]),
                augmentation(self._augment, seed),
                keras.layers.Rescaling(1 / 127.5, offset=-1),
                base,
                keras.layers.GlobalAveragePooling2D(),
                head,
            ]
        )
        for compiled in (head, model):
            adam = keras.optimizers.Adam(LEARNING_RATE)
            # For two classes a head gives one probability.
            loss = "sparse_categorical_crossentropy" if outputs > 1 else "binary_crossentropy"
            compiled.compile(adam, loss, metrics=["accuracy"])
        best = BestHead(head, stored_rows(store, "validation", self.classes))
        kept = keras.callbacks.LambdaCallback(on_epoch_end=best.look)
        settings: dict[str, Any] = {"batch_size": BATCH_SIZE, "epochs": self._epochs, "verbose": 0}
        model.fit(*images, callbacks=[kept], **settings)
        seconds = time.perf_counter() - started
        head.set_weights(best.weights)
        accuracy = head.evaluate(*stored_rows(store, "test", self.classes), verbose=0)[1]
        return Result(accuracy, training=seconds)


def answer(command, *arguments: str) -> dict[str, Any]:
    """Runs a command in this process, where the libraries are loaded; returns its JSON."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        command([*arguments, "--json"])
    return json.loads(out.getvalue())


def measure(bench: Bench, seeds: int) -> dict[str, list[Result]]:
    """Runs every way with every seed, after an uncounted run that loads the libraries."""
    bench.stored(1, seeds)
    results: dict[str, list[Result]] = defaultdict(list)
    for seed in range(seeds):
        stores = []
        for views in VIEWS:
            result, store = bench.stored(views, seed)
            results[str(views)].append(result)
            stores.append(store)
        results[LOOP].append(bench.end_to_end(stores[0], seed))
        for way, every in results.items():
            say(f"seed {seed}, views {way}: {every[-1]}", to_stderr=True)
    return results


def table_rows(results: dict[str, list[Result]]) -> list[list[str]]:
    """Returns rows of means over the seeds; the gain is taken seed by seed."""
    plain = np.array([result.accuracy for result in results["1"]])
    rows = []
    for way, every in results.items():
        accuracy = np.array([result.accuracy for result in every])
        gain = 100 * (accuracy - plain)
        _, stored, size, extraction, training = (
            float(mean) or None for mean in np.mean([dataclasses.astuple(one) for one in every], 0)
        )
        rows.append(
            [
                way,
                f"{stored:,.0f}" if stored else NOTHING,
                number(size / 1e6 if size else None, " MB"),
                number(extraction, " s"),
                number(training, " s"),
                spread(100 * accuracy),
                NOTHING if way == "1" else spread(gain, signed=True),
            ]
        )
    return rows


def spread(values: np.ndarray, signed: bool = False) -> str:
    """Formats a mean and the standard deviation between seeds.

    Example:
      >>> spread(np.array([1.0, 2.0, 3.0]), signed=True)
      '+2.0 (1.0)'
    """
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return f"{values.mean():{'+' if signed else ''}.1f} ({deviation:.1f})"


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    counts = {"per_class": 5, "epochs": 30, "seeds": 3}
    parser = counted_parser("benchmarks.views", __doc__, **counts)
    add_sets(parser, SETS)
    parser.add_argument("--augment", help="steps of the views (default: those of the set)")
    args = parser.parse_args(argv)
    if args.augment and any(step.name == "crop" for step in parse_augment(args.augment)):
        raise UsageError("--augment: the loop to compare with takes no crop; leave it out")
    for name in args.sets:
        publish(f"benchmarks.views --sets {name}", report(name, args), args.write)
    return 0


def report(name: str, args: argparse.Namespace) -> list[str]:
    """Measures a set of images; returns its table, as lines of Markdown."""
    augment = args.augment or AUGMENT[name]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), name, augment, args.epochs, args.per_class)
        results = measure(bench, args.seeds)
    header = ["views", "rows", "store", "extraction", "training", "test accuracy, %", "gain"]
    title = (
        f"{name}, {len(bench.classes)} classes, {args.per_class} training images per class, "
        f"{augment}, {args.epochs} epochs; mean (standard deviation) of {args.seeds} seeds:"
    )
    return [title, "", *table(header, table_rows(results))]


if __name__ == "__main__":
    main(run)
