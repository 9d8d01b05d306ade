"""Many heads in one run against other ways to train the same heads on the same rows.

    python -m benchmarks.stacked [--rounds 3] [--epochs 3]

128 linear heads of 10 classes on 20,000 embeddings (1280,) are compared with ONE Keras `fit` of one
such head, and 16 heads of 256 hidden units on 2,000 float16 maps (5, 5, 512) with 16 Keras fits.
Three more ways train all heads at once, as Hoarfrost does: one Keras model of einsum layers,
`jax.vmap` of the step of one head, and `torch.func.vmap` of its gradient. They start from the same
weights and take the same batches, and the last column says by how much the accuracy of a head
differs from Hoarfrost's at the most.

The batch size is 64, the optimizer Adam, and a fifth of the rows validates after every epoch. The
rows are synthetic and are written into stores as an extraction writes them. All runs in one
process, in turn. Everyone's arrays are in memory before the clock starts. "The fit" is what the
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
from typing import Any, NamedTuple

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.opening import write_store
from benchmarks.ridge import CLASSES, made_rows
from benchmarks.rivals import (
    EINSUM,
    TORCH,
    VMAP,
    Rival,
    Start,
    einsum_layers,
    rival_accuracy,
    torch_vmapped,
    vmapped,
)
from benchmarks.rounds import NotRun, paired_ratio
from benchmarks.tables import number, publish, table
from classifier import train
from classifier.features.dataset import Rows, load_rows
from classifier.features.division import divide
from classifier.heads.data import TrainingData, prepare_data
from classifier.heads.options import TrainOptions
from classifier.heads.spec import parse_head
from classifier.heads.stacked.fit import fit_stacked
from classifier.runtime import import_keras
from featurestore import BaseSpec, FeatureStore, Numerics, PixelSpec, StoreSpec
from featurestore.cli.command import main, quiet_libraries, say

BATCH = 64
FIT, COMMAND = "Hoarfrost, the fit", "Hoarfrost, the command"


class Timed(NamedTuple):
    """One fit of all heads.

    Attributes:
      seconds: it took.
      accuracy: of each head on the validation rows after the last epoch; None if the heads are
        not the same in every way.
    """

    seconds: float
    accuracy: np.ndarray | None = None


Ways = dict[str, Callable[[], Timed]]


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


def keras_fits(case: Case, sides: Sequence[Rows], epochs: int, steps: int) -> Timed:
    """Fits one head after the other with Keras."""
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
    return Timed(time.perf_counter() - started)


def rival_fit(
    make: Callable[[Start], Rival], start: Start, data: TrainingData, options: TrainOptions
) -> Timed:
    """Fits all heads at once in another way, its compilation included."""
    started = time.perf_counter()
    accuracy = rival_accuracy(make(start), data, options)
    return Timed(time.perf_counter() - started, accuracy)


def our_fit(data: TrainingData, options: TrainOptions) -> Timed:
    """Fits all heads as the command does, from rows in memory."""
    started = time.perf_counter()
    fits = [fit for wave in fit_stacked(options.trials(), data, options) for fit in wave.values()]
    seconds = time.perf_counter() - started
    return Timed(seconds, np.array([fit.history["val_accuracy"][-1] for fit in fits]))


def our_command(store: FeatureStore, case: Case, epochs: int, output: Path) -> Timed:
    """Runs the command."""
    arguments = ["--store", store.storage.url, "--output", str(output), "--overwrite", "--json"]
    arguments += ["--head", case.head, "--epochs", str(epochs), "--batch_size", str(BATCH)]
    for name, values in case.grid.items():
        arguments += [f"--{name}", ",".join(map(repr, values))]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        train.run(arguments)
    return Timed(time.perf_counter() - started)


def ways_of(case: Case, folder: Path, epochs: int) -> Ways:
    """Makes the case's store; returns every way to train its heads, by name."""
    store = made_store(case, folder / "store")
    division, options = divide(store), case.options(epochs)
    pairs = (
        (division.train, division.train_counts),
        (division.validation, division.validation_counts),
    )
    sides = [load_rows(store, division.classes, side, int(counts.sum())) for side, counts in pairs]
    data = prepare_data(store, division, options)
    start = Start.of(data, options)
    ways: Ways = {
        _keras_name(case, steps): partial(keras_fits, case, sides, epochs, steps)
        for steps in case.steps
    }
    ways[EINSUM] = partial(rival_fit, einsum_layers, start, data, options)
    ways[VMAP] = partial(rival_fit, vmapped, start, data, options)
    ways[TORCH] = partial(rival_fit, torch_vmapped, start, data, options)
    ways[FIT] = partial(our_fit, data, options)
    ways[COMMAND] = partial(our_command, store, case, epochs, folder / "run")
    return ways


def measure(case: Case, folder: Path, rounds: int, epochs: int) -> list[list[str]]:
    """Returns the case's rows of the table.

    Args:
      case: the heads to measure.
      folder: where everything is written.
      rounds: of all ways in turn, every other one backwards; a warm-up round comes first.
      epochs: of each fit.
    """
    ways = ways_of(case, folder, epochs)
    timed: dict[str, list[Timed]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in list(ways.items())[:: 1 if turn % 2 == 0 else -1]:
            try:
                timed[name].append(work())
            except NotRun as reason:
                say(f"  {case.head}, {name}: not run: {reason}", to_stderr=True)
                continue
            seconds = timed[name][-1].seconds
            say(f"  {case.head}, round {turn}, {name}: {seconds:.2f} s", to_stderr=True)
    heads = len(case.options(epochs).trials())
    title = f"{heads} x {case.head} on {case.rows:,} rows {case.shape}"
    references = timed[_keras_name(case, 1)], timed[FIT]
    return [[title, name, *cells(every, references)] for name, every in timed.items()]


def cells(every: Sequence[Timed], references: Sequence[Sequence[Timed]]) -> list[str]:
    """Returns the figures of a way; nothing but dashes if it was not run.

    Args:
      every: its fits, the warm-up first.
      references: the fits of the ways to compare it with; the last has each head's accuracy.
    """
    seconds = [fit.seconds for fit in every[1:]]
    ratios = [
        paired_ratio(seconds, [fit.seconds for fit in reference[1:]]) for reference in references
    ]
    usual = statistics.median(seconds) if seconds else None
    extra = None if usual is None else max(0.0, every[0].seconds - usual)
    mine, theirs = (fits[-1].accuracy if fits else None for fits in (every, references[-1]))
    apart = None if mine is None or theirs is None else float(np.abs(mine - theirs).max())
    return [
        number(usual, " s"),
        *map(number, ratios),
        number(extra, " s"),
        "-" if apart is None else f"{apart:.4f}",
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
    header = "heads|way|time|x Keras fit|x Hoarfrost's fit|extra in the warm-up|accuracy differs by"
    title = f"{args.epochs} epochs, batch {BATCH}, {args.rounds} rounds after a warm-up:"
    publish("benchmarks.stacked", [title, "", *table(header.split("|"), rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
