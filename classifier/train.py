"""Trains classifier heads on a feature store: ``python -m classifier.train``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from classifier.features.division import Division, divide
from classifier.heads.exact import check_heads
from classifier.heads.head import outputs_for
from classifier.heads.options import TrainOptions
from classifier.heads.stacked.checkpoint import SECONDS, Checkpoint, remove_checkpoint
from classifier.reporting.writing import report_training
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.training.data import leaderboard, prepare_data
from classifier.training.flags import add_flags, options_of
from classifier.training.trials import fit_all
from featurestore import FeatureStore, __version__, open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.info import human_bytes
from featurestore.io.storage import Storage
from featurestore.reading.cache import AUTO, VARIABLE, parse_limit

KEPT = "the last checkpoint stays in --output; the same command goes on from there"
EPILOG = """\
heads:
  linear                            one dense layer
  mlp:UNITS[:relu|linear][:dropout=P]   a hidden layer before it, such as mlp:256:relu:dropout=0.5
  ridge[:l2=L,L...]                 least squares, solved exactly for every penalty at once
  logistic[:l2=L,L...]              multinomial logistic regression by L-BFGS
  knn:K[:cosine|euclidean][:weighted|majority]   the K nearest training rows vote

All combinations of --head, --lr, --l2, --dropout, --optimizer, --seed and --label_smoothing are
trained, linear and mlp heads together over one stream of the store, each as if it were alone.

Penalties are beside the mean loss of a row, on standardised features. Those of --l2 are for linear
and mlp, and each makes a head of its own. ridge and logistic choose one among penalties of their
own: ridge by cross-validated accuracy from 50 of 1e-4 to 1e4, logistic by validation loss from 7 of
1e-6 to 1; or from those in their --head, such as ridge:l2=1e-2,1,100; or from --l2 where a run has
neither linear nor mlp heads.

example:
  python -m classifier.train --store hoarfrost-store --output run \\
      --head linear --head mlp:256:relu --dropout 0,0.5 --lr 1e-3,1e-4 --seed 0,1,2
"""


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.train",
        description="Trains heads on stored features; the best by validation loss comes first.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("--store", required=True, help="feature store: a folder or any fsspec URL")
    add("--output", required=True, help="folder of the training run")
    add_flags(result)
    add(
        "--grid",
        metavar="FILE.yaml",
        help="a mapping with the names above as keys, scalars or lists; flags given here win",
    )
    add(
        "--cache",
        default=os.environ.get(VARIABLE, AUTO),
        metavar="auto|off|SIZE",
        help="keep decoded embeddings beside a local store, at most SIZE such as 5GB, so that the "
        f"next training starts at once (default ${VARIABLE} or auto: 20 GB or half the free disk)",
    )
    add(
        "--checkpoint",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help="between two checkpoints of the training, from which the same command goes on after a "
        "kill (default %(default)g)",
    )
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
    add("--overwrite", action="store_true", help="replace a run that is in --output")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    file_system = key_values(arguments.storage_options, "--storage_options")
    options = options_of(arguments, file_system)
    limit = parse_limit(arguments.cache)
    # The rows of an epoch must be those of the last, also while an extraction goes on.
    store = open_store(arguments.store, file_system).with_cache(limit).at_this_moment()
    storage = Storage(arguments.output, file_system)
    division = divide(store, options.multi_label)
    outputs_for(division.classes)
    check_heads(options, store.spec.feature_shape, division)
    output.prepare_output(storage, store, arguments.overwrite)
    if arguments.overwrite and not storage.exists(run_folder.RUN):
        # What it is to replace is the unfinished training that is there.
        remove_checkpoint(storage)

    def tell(line: str) -> None:
        if not arguments.json:
            say(line)

    summary = train_run(store, storage, division, options, tell, arguments.checkpoint)
    if arguments.json:
        say(run_folder.dump_json(summary).rstrip())
    return 0


def train_run(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    options: TrainOptions,
    tell: Callable[[str], None],
    checkpoint_seconds: float = SECONDS,
) -> dict[str, Any]:
    """Trains every head of `options` and writes the run.

    Args:
      store: to learn from.
      storage: the run's folder, prepared.
      division: which rows train and validate.
      options: hyperparameters.
      tell: takes lines for the user.
      checkpoint_seconds: at least between two checkpoints.

    Returns:
      The summary that is written as ``summary.json``.
    """

    def fit(replace_older: Callable[[], None]) -> Fitted:
        decisive = {
            "store": store.url,
            "features": store.spec.identity_hash,
            "rows": sorted(marker.part_sha256 for marker in store.markers().values()),
            "labels": [
                list(division.classes),
                division.train_counts.tolist(),
                store.label_versions(),
            ],
            **options.to_record(),
        }
        checkpoint = Checkpoint(storage, decisive, tell, checkpoint_seconds)
        data = prepare_data(store, division, options)
        tell("features: loaded once into memory" if data.in_memory else
             "features: streamed from the store every epoch, as they need more than --memory "
             f"{human_bytes(options.memory)}")  # fmt: skip
        records, failed = fit_all(storage, data, options, tell, replace_older, checkpoint)
        return Fitted(records, failed, "memory" if data.in_memory else "streamed")

    return write_run(store, storage, division, options, tell, fit)


class Fitted(NamedTuple):
    """What the fits of a run gave.

    Attributes:
      records: of the heads that were saved.
      failed: of those that were not, each with its reason.
      features: how features were read.
    """

    records: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    features: str


def write_run(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    options: TrainOptions,
    tell: Callable[[str], None],
    fit: Callable[[Callable[[], None]], Fitted],
) -> dict[str, Any]:
    """Writes a run around the fits of its heads; arguments and result as `train_run`.

    Args:
      fit: fits and saves heads; calls what it is given once, before it saves the first.
    """
    started = time.perf_counter()
    # Before the fits: a store without its base must not be found out at their end.
    models = output.copy_models(store, storage)
    _tell_rows(store, division, tell)

    def replace_older() -> None:
        output.clear_output(storage, models)
        output.copy_probes(store, storage)

    fitted = fit(replace_older)
    board = leaderboard(fitted.records)
    run_folder.write_leaderboard(storage, board)
    summary = _summary(store, storage, division, board)
    summary |= {"features": fitted.features, "failed": fitted.failed}
    summary["seconds"] = round(time.perf_counter() - started, 3)
    storage.write(run_folder.SUMMARY, run_folder.dump_json(summary))
    storage.write(run_folder.RUN, _config(store, division, options, board).to_json())
    remove_checkpoint(storage)
    output.finish_output(storage)
    report_training(storage, store, tell)
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
    trained = {record["head_id"] for record in board if record["kept"]}
    heads = {name: str(trial.head) for name, trial in options.trials().items() if name in trained}
    return run_folder.RunConfig(
        store.spec,
        store.url,
        division.classes,
        heads,
        {**options.to_record(), "multi_label": "on" if division.multi_label else "off"},
        division.carve,
        __version__,
    )


def _tell_rows(store: FeatureStore, division: Division, tell: Callable[[str], None]) -> None:
    source = "carved out of them by content hash" if division.carve else "of the validation split"
    tell(
        f"{store.url}: {division.rows[0]} training rows of {len(division.classes)} "
        f"classes, {division.rows[1]} validation rows {source}"
    )
    for note in division.notes:
        tell(f"note: {note}")


def _summary(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    board: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        "run": storage.public_url,
        "store": store.url,
        "classes": list(division.classes),
        "train_rows": division.rows[0],
        "validation_rows": division.rows[1],
        "validation": "carved" if division.carve else "split",
        "notes": list(division.notes),
        "best": board[0]["head_id"],
        "leaderboard": list(board),
    }


if __name__ == "__main__":
    main(run, kept=KEPT)
