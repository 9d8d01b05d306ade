"""Training a head from a store against `keras.fit` on arrays: the same head, rows and epochs.

    python -m benchmarks.heads [--images 4000] [--epochs 5] [--rounds 3]

There are two heads: a linear head on embeddings (512,), and 256 hidden units on maps (5, 5, 512).
Keras loads its arrays with `np.load` and fits them as a textbook does. Hoarfrost opens the store,
divides and standardises its rows, fits, and keeps the best epoch. Both run in one process, in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.bases import PATCHES, write_base_apart
from benchmarks.images import write_copies, write_photographs
from benchmarks.processes import module, run_command
from benchmarks.rounds import paired_ratio
from benchmarks.tables import number, publish, table
from classifier.features.dataset import load_rows
from classifier.features.division import divide
from classifier.heads.data import prepare_data
from classifier.heads.options import TrainOptions
from classifier.heads.spec import parse_head
from classifier.heads.stacked.fit import fit_stacked, trained_head
from classifier.runtime import import_keras
from featurestore import FeatureStore, open_store
from featurestore.cli.command import main, quiet_libraries

DISTINCT = 500  # photographs; the other images are copies
HEADS = (("linear", "avg"), ("mlp:256:relu", "none"))


def patches_store(folder: Path, images: int, pooling: str = "none") -> FeatureStore:
    """Extracts a store of `PATCHES` from real photographs.

    Args:
      folder: where everything is written.
      images: number of images, and so of rows.
      pooling: ``none`` for float16 (5, 5, 512), ``avg`` for float32 (512,).
    """
    classes = folder / "photos"
    if not classes.exists():
        originals = write_photographs(folder / "originals", min(images, DISTINCT))
        write_copies(originals, classes, images)
    base_file = write_base_apart(PATCHES, folder)
    flags = [*PATCHES.flags(base_file), "--pooling", pooling]
    command = ["--input", "photos", "--output", f"store-{pooling}", *flags]
    run_command(module("pipelines.extract", *command), folder, 900)
    return open_store(str(folder / f"store-{pooling}"))


@dataclass(frozen=True)
class Fit:
    """One training.

    Attributes:
      rows_per_second: training rows per second of the fit, over all epochs.
      seconds: from opening the features to the trained head.
    """

    rows_per_second: float
    seconds: float


def save_arrays(store: FeatureStore, folder: Path) -> None:
    """Saves a store's rows as the arrays of a textbook: features and labels of two splits."""
    division = divide(store)
    sides = {
        "train": (division.train, division.train_counts),
        "validation": (division.validation, division.validation_counts),
    }
    for name, (selection, counts) in sides.items():
        rows = load_rows(store, division.classes, selection, int(counts.sum()))
        np.save(folder / f"{name}-features.npy", rows.features)
        np.save(folder / f"{name}-labels.npy", rows.labels)


def fit_keras(folder: Path, head: str, options: TrainOptions) -> Fit:
    """Trains a head with `keras.fit` on saved arrays."""
    keras = import_keras()
    keras.utils.set_random_seed(options.seed[0])
    started = time.perf_counter()
    train, validation = (
        tuple(np.load(folder / f"{side}-{kind}.npy") for kind in ("features", "labels"))
        for side in ("train", "validation")
    )
    units = parse_head(head).units
    hidden = [keras.layers.Dense(units, activation="relu")] if units else []
    out = keras.layers.Dense(1, activation="sigmoid")
    shape = keras.Input(train[0].shape[1:])
    model = keras.Sequential([shape, keras.layers.Flatten(), *hidden, out])
    model.compile(keras.optimizers.Adam(options.lr[0]), "binary_crossentropy", metrics=["accuracy"])
    begun = time.perf_counter()
    settings: dict[str, Any] = {"epochs": options.epochs, "batch_size": options.batch_size}
    model.fit(*train, validation_data=validation, verbose=0, **settings)
    end = time.perf_counter()
    return Fit(len(train[0]) * options.epochs / (end - begun), end - started)


def fit_ours(url: str, head: str, options: TrainOptions) -> Fit:
    """Trains a head from a store, as ``classifier.train`` does."""
    started = time.perf_counter()
    store = open_store(url)
    data = prepare_data(store, divide(store), options)
    ((name, trial),) = options.trials().items()
    (fits,) = fit_stacked({name: trial}, data, options)
    trained = trained_head(fits[name], trial, data)
    return Fit(trained.rows_per_second, time.perf_counter() - started)


def measure(folder: Path, images: int, rounds: int, epochs: int) -> list[list[str]]:
    """Returns the rows of the table.

    Args:
      folder: where everything is written.
      images: number of rows of the store.
      rounds: in which both ways run in turn; one more round comes first and does not count.
      epochs: of each fit.
    """
    table_rows = []
    for head, pooling in HEADS:
        store = patches_store(folder, images, pooling)
        save_arrays(store, folder)
        options = TrainOptions((parse_head(head),), epochs=epochs)
        fits: dict[str, list[Fit]] = {"keras.fit": [], "Hoarfrost": []}
        for _ in range(rounds + 1):
            fits["keras.fit"].append(fit_keras(folder, head, options))
            fits["Hoarfrost"].append(fit_ours(str(store.storage.url), head, options))
        shape = ", ".join(map(str, store.spec.feature_shape))
        for way, every in fits.items():
            rates, theirs = (
                [fit.rows_per_second for fit in counted[1:]]
                for counted in (every, fits["keras.fit"])
            )
            taken = float(np.median([fit.seconds for fit in every[1:]]))
            cells = [number(float(np.median(rates))), number(paired_ratio(rates, theirs))]
            table_rows.append([f"{head} on ({shape})", way, *cells, number(taken, " s")])
    return table_rows


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    counts = {"images": PATCHES.images, "epochs": 5, "rounds": 3}
    parser = counted_parser("benchmarks.heads", __doc__, **counts)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        rows = measure(Path(name), args.images, args.rounds, args.epochs)
    header = ["head", "way", "rows/s in the fit", "x keras.fit", "opened to trained"]
    title = f"{args.images:,} rows, {args.epochs} epochs, batch {TrainOptions().batch_size}:"
    publish("benchmarks.heads", [title, "", *table(header, rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
