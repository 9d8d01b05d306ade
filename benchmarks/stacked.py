"""Many heads in one run against Keras fits of the same heads, rows and epochs.

    python -m benchmarks.stacked [--rounds 3] [--epochs 3]

128 linear heads of 10 classes on 20,000 embeddings (1280,) are compared with ONE Keras `fit` of one
such head, and 16 heads of 256 hidden units on 2,000 float16 maps (5, 5, 512) with 16 Keras fits.
The batch size is 64, the optimizer Adam, and a fifth of the rows validates after every epoch. The
rows are synthetic and are written into stores as an extraction writes them. All runs in one
process, in turn. Keras's arrays are in memory before its clock starts. "The fit" is what the
command calls. "The command" reads the store, divides and standardises its rows, fits, and writes
the run with its ten best heads.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.opening import write_store
from benchmarks.ridge import CLASSES, made_rows
from benchmarks.rounds import paired_ratio
from benchmarks.tables import number, publish, table
from classifier import train
from classifier.features.dataset import Rows, load_rows
from classifier.features.division import divide
from classifier.heads.data import prepare_data
from classifier.heads.options import TrainOptions
from classifier.heads.spec import parse_head
from classifier.heads.stacked.fit import fit_stacked
from classifier.runtime import import_keras
from featurestore import BaseSpec, FeatureStore, Numerics, PixelSpec, StoreSpec
from featurestore.cli.command import main, quiet_libraries, say

BATCH = 64
FIT, COMMAND = "Hoarfrost, the fit", "Hoarfrost, the command"


@dataclass(frozen=True)
class Case:
    """Heads to train.

    Attributes:
      head: as `--head` spells it.
      shape: of a row of features.
      dtype: of the stored features.
      rows: number of rows in the store.
      grid: field of `TrainOptions` -> its values; all combinations are trained.
      fits: number of Keras fits to compare with.
      steps: steps per call of Keras; each value is a contender.
    """

    head: str
    shape: tuple[int, ...]
    dtype: str
    rows: int
    grid: dict[str, Any]
    fits: int
    steps: tuple[int, ...]

    def options(self, epochs: int) -> TrainOptions:
        """Returns the options of the run."""
        heads = (parse_head(self.head),)
        return TrainOptions(heads=heads, epochs=epochs, batch_size=BATCH, **self.grid)


LINEAR = Case(
    "linear",
    (1280,),
    "float32",
    20_000,
    {
        "lr": tuple(float(f"{rate:.1e}") for rate in np.geomspace(1e-4, 1e-2, 32)),
        "seed": (0, 1, 2, 3),
    },
    fits=1,
    steps=(1, 32),
)
MLP = Case(
    "mlp:256:relu",
    (5, 5, 512),
    "float16",
    2_000,
    {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "seed": (0, 1, 2, 3)},
    fits=16,
    steps=(1,),
)


def made_store(case: Case, folder: Path) -> FeatureStore:
    """Writes a store of synthetic rows."""
    rows = Rows.joined(list(made_rows(case.rows, int(np.prod(case.shape)))))
    features = rows.features.reshape(-1, *case.shape).astype(case.dtype)
    pooling = "none" if len(case.shape) > 1 else "avg"
    spec = StoreSpec(
        base=BaseSpec("made", "none", "0" * 32, "top", pooling, "none"),
        pixels=PixelSpec((32, 32)),
        feature_shape=case.shape,
        dtype=case.dtype,
        numerics=Numerics("tensorflow", "float32", "made"),
    )
    store = write_store(folder, spec, features, [f"class {label}" for label in rows.labels])
    # A run copies both files; nothing here reads them.
    for name in ("model/" + "0" * 32 + ".keras", "model/probes.parquet"):
        store.storage.write(name, b"")
    return store


def keras_fits(case: Case, sides: Sequence[Rows], epochs: int, steps: int) -> float:
    """Fits one head after the other with Keras; returns seconds."""
    keras = import_keras()
    spec = parse_head(case.head)
    train_rows, held = sides
    started = time.perf_counter()
    for seed in range(case.fits):
        keras.utils.set_random_seed(seed)
        hidden = [keras.layers.Dense(spec.units, spec.activation)] if spec.units else []
        layers = [keras.Input(case.shape), keras.layers.Flatten(), *hidden]
        model = keras.Sequential([*layers, keras.layers.Dense(CLASSES, "softmax")])
        model.compile(
            "adam",
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=steps,
        )
        model.fit(
            train_rows.features,
            train_rows.labels,
            batch_size=BATCH,
            epochs=epochs,
            validation_data=(held.features, held.labels),
            verbose=0,
        )
    return time.perf_counter() - started


def our_fit(store: FeatureStore, options: TrainOptions) -> float:
    """Fits all heads as the command does, from rows in memory; returns seconds."""
    data = prepare_data(store, divide(store), options)
    started = time.perf_counter()
    for _ in fit_stacked(options.trials(), data, options):
        pass
    return time.perf_counter() - started


def our_command(store: FeatureStore, case: Case, epochs: int, output: Path) -> float:
    """Runs the command; returns seconds."""
    arguments = ["--store", store.storage.url, "--output", str(output), "--overwrite", "--json"]
    arguments += ["--head", case.head, "--epochs", str(epochs), "--batch_size", str(BATCH)]
    for name, values in case.grid.items():
        arguments += [f"--{name}", ",".join(map(repr, values))]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        train.run(arguments)
    return time.perf_counter() - started


def measure(case: Case, folder: Path, rounds: int, epochs: int) -> list[list[str]]:
    """Returns the case's rows of the table.

    Args:
      case: the heads to measure.
      folder: where everything is written.
      rounds: of all ways in turn, every other one backwards; a warm-up round comes first.
      epochs: of each fit.
    """
    store = made_store(case, folder / "store")
    division, options = divide(store), case.options(epochs)
    pairs = (
        (division.train, division.train_counts),
        (division.validation, division.validation_counts),
    )
    sides = [load_rows(store, division.classes, side, int(counts.sum())) for side, counts in pairs]
    ways: dict[str, Callable[[], float]] = {
        _keras_name(case, steps): partial(keras_fits, case, sides, epochs, steps)
        for steps in case.steps
    }
    ways[FIT] = partial(our_fit, store, options)
    ways[COMMAND] = partial(our_command, store, case, epochs, folder / "run")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in list(ways.items())[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(work())
            say(f"  {case.head}, round {turn}, {name}: {seconds[name][-1]:.2f} s", to_stderr=True)
    baseline = seconds[_keras_name(case, 1)][1:]
    title = f"{len(options.trials())} x {case.head} on {case.rows:,} rows {case.shape}"
    return [
        [
            title,
            name,
            number(statistics.median(every[1:]), " s"),
            number(paired_ratio(every[1:], baseline)),
            number(max(0.0, every[0] - statistics.median(every[1:])), " s"),
        ]
        for name, every in seconds.items()
    ]


def _keras_name(case: Case, steps: int) -> str:
    fits = "one Keras fit" if case.fits == 1 else f"{case.fits} Keras fits"
    return fits if steps == 1 else f"{fits}, steps_per_execution={steps}"


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    args = counted_parser("benchmarks.stacked", __doc__, rounds=3, epochs=3).parse_args(argv)
    rows = []
    for case in (LINEAR, MLP):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            rows += measure(case, Path(name), args.rounds, args.epochs)
    header = ["heads", "way", "time", "x Keras", "extra in the warm-up"]
    title = f"{args.epochs} epochs, batch {BATCH}, {args.rounds} rounds after a warm-up:"
    publish("benchmarks.stacked", [title, "", *table(header, rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
