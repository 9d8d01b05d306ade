"""Trains classifier heads on a feature store: ``python -m classifier.train``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from classifier import output
from classifier import run as run_folder
from classifier.division import Division, divide
from classifier.heads import outputs_for, parse_head
from classifier.options import CLASS_WEIGHTS, OPTIMIZERS, STANDARDISE, TrainOptions
from classifier.training import TrainingData, leaderboard, prepare_data
from classifier.trials import fit_all
from featurestore import FeatureStore, UsageError, __version__, open_store
from featurestore.command import Parser, key_values, main, quiet_libraries, say
from featurestore.storage import Storage

EPILOG = """\
heads:
  linear                            one dense layer
  mlp:UNITS[:relu|linear][:dropout=P]   a hidden layer before it, such as mlp:256:relu:dropout=0.5

example:
  python -m classifier.train --store hoarfrost-store --output run \\
      --head linear --head mlp:256:relu:dropout=0.5 --lr 1e-3,1e-4
"""


def parser() -> Parser:
    """Returns the command's arguments."""
    defaults = TrainOptions()
    result = Parser(
        prog="python -m classifier.train",
        description="Trains heads on stored features; the best by validation loss comes first.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("--store", required=True, help="feature store: a folder or any fsspec URL")
    add("--output", required=True, help="folder of the training run")
    add("--head", action="append", metavar="HEAD", help="repeatable; default linear")
    add("--lr", default="1e-3", help="learning rates, by commas (default %(default)s)")
    add(
        "--optimizer",
        default=defaults.optimizer,
        help=f"{'|'.join(OPTIMIZERS)} (default %(default)s)",
    )
    add("--epochs", type=int, default=defaults.epochs, help="default %(default)s")
    add("--batch_size", type=int, default=defaults.batch_size, help="rows (default %(default)s)")
    add(
        "--class_weight",
        default=defaults.class_weight,
        help=f"{'|'.join(CLASS_WEIGHTS)} (default %(default)s)",
    )
    add("--l2", type=float, default=defaults.l2, help="penalty on kernels (default %(default)s)")
    add(
        "--standardise",
        default=defaults.standardise,
        help=f"{'|'.join(STANDARDISE)}: scale features by the training rows' mean and deviation "
        "(default %(default)s)",
    )
    add("--seed", type=int, default=defaults.seed, help="default %(default)s")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
    add("--overwrite", action="store_true", help="replace a run that is in --output")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")
    return result


def options_of(arguments) -> TrainOptions:
    """Builds the options from parsed arguments."""
    try:
        rates = tuple(float(rate) for rate in arguments.lr.split(","))
    except ValueError:
        raise UsageError(
            f"--lr: expected numbers separated by commas, such as 1e-3,1e-4, got {arguments.lr!r}"
        ) from None
    return TrainOptions(
        heads=tuple(parse_head(text) for text in arguments.head or ["linear"]),
        lr=rates,
        optimizer=arguments.optimizer,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        class_weight=arguments.class_weight,
        l2=arguments.l2,
        standardise=arguments.standardise,
        seed=arguments.seed,
    )


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    options = options_of(arguments)
    file_system = key_values(arguments.storage_options, "--storage_options")
    store = open_store(arguments.store, file_system)
    storage = Storage(arguments.output, file_system)
    division = divide(store)
    outputs_for(division.classes)
    output.prepare_output(storage, store, arguments.overwrite)

    def tell(line: str) -> None:
        if not arguments.json:
            say(line)

    summary = train_run(store, storage, division, options, tell)
    if arguments.json:
        say(run_folder.dump_json(summary).rstrip())
    return 0


def train_run(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    options: TrainOptions,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Trains every head of `options` and writes the run.

    Args:
      store: to learn from.
      storage: the run's folder, prepared.
      division: which rows train and validate.
      options: hyperparameters.
      tell: takes lines for the user.

    Returns:
      The summary that is written as ``summary.json``.
    """
    started = time.perf_counter()
    # Before the fits: a store without its base must not be found out at their end.
    models = output.copy_models(store, storage)
    _tell_rows(store, division, tell)
    data = prepare_data(store, division, options)
    tell("features: loaded once into memory" if data.in_memory else
         "features: streamed from the store every epoch, as they exceed the memory budget of 1 GiB"
         )  # fmt: skip

    def replace_older() -> None:
        output.clear_output(storage, models)
        output.copy_probes(store, storage)

    records, failed = fit_all(storage, data, options, tell, replace_older)
    board = leaderboard(records)
    run_folder.write_leaderboard(storage, board)
    summary = _summary(store, storage, data, board, time.perf_counter() - started)
    summary["failed"] = failed
    storage.write(run_folder.SUMMARY, run_folder.dump_json(summary))
    storage.write(run_folder.RUN, _config(store, division, options, board).to_json())
    output.finish_output(storage)
    best = board[0]
    tell(
        f"best: {best['head_id']}, validation accuracy {best['val_accuracy']:.4f}, loss "
        f"{best['val_loss']:.4f}; run written to {storage.public_url}"
    )
    return summary


def _config(
    store: FeatureStore,
    division: Division,
    options: TrainOptions,
    board: Sequence[Mapping[str, Any]],
) -> run_folder.RunConfig:
    trained = {record["head_id"] for record in board}
    heads = {name: str(spec) for name, (spec, _) in options.trials().items() if name in trained}
    return run_folder.RunConfig(
        store.spec,
        store.url,
        division.classes,
        heads,
        options.to_record(),
        division.carve,
        __version__,
    )


def _tell_rows(store: FeatureStore, division: Division, tell: Callable[[str], None]) -> None:
    source = "carved out of them by content hash" if division.carve else "of the validation split"
    tell(
        f"{store.url}: {division.train_counts.sum()} training rows of {len(division.classes)} "
        f"classes, {division.validation_counts.sum()} validation rows {source}"
    )
    for note in division.notes:
        tell(f"note: {note}")


def _summary(
    store: FeatureStore,
    storage: Storage,
    data: TrainingData,
    board: Sequence[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    division = data.division
    return {
        "run": storage.public_url,
        "store": store.url,
        "classes": list(division.classes),
        "train_rows": int(division.train_counts.sum()),
        "validation_rows": int(division.validation_counts.sum()),
        "validation": "carved" if division.carve else "split",
        "notes": list(division.notes),
        "features": "memory" if data.in_memory else "streamed",
        "seconds": round(seconds, 3),
        "best": board[0]["head_id"],
        "leaderboard": list(board),
    }


if __name__ == "__main__":
    main(run)
