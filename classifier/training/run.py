"""A training run, from the rows of a store to the written page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from classifier.features.division import SOURCES, Division
from classifier.heads.data import TrainingData, prepare_data
from classifier.heads.options import TrainOptions
from classifier.heads.stacked.checkpoint import SECONDS, Checkpoint, remove_checkpoint
from classifier.reporting.writing import report_training
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.training.trials import fit_all
from featurestore import FeatureStore, __version__
from featurestore.compaction.origins import original_parts
from featurestore.io.storage import Storage
from featurestore.numerics import digest
from featurestore.units import size_text


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
        decisive = decisive_of(store, division, options)
        checkpoint = Checkpoint(storage, decisive, tell, checkpoint_seconds)
        data = prepare_data(store, division, options)
        place = tell_place(data, options, tell)
        records, failed = fit_all(storage, data, options, tell, replace_older, checkpoint)
        return Fitted(records, failed, place)

    return write_run(store, storage, division, options, tell, fit)


def decisive_of(store: FeatureStore, division: Division, options: TrainOptions) -> dict[str, Any]:
    """Returns what decides the result of a training; a checkpoint of another one is not used."""
    return {
        "store": store.url,
        "features": store.spec.identity_hash,
        "rows": original_parts(store.storage, store.markers().values()),
        "labels": [list(division.classes), division.train_counts.tolist(), store.label_versions()],
        **options.to_record(),
    }


def tell_place(data: TrainingData, options: TrainOptions, tell: Callable[[str], None]) -> str:
    """Tells the user how features are read; returns `Fitted.features`."""
    if data.in_memory:
        tell("features: loaded once into memory")
        return "memory"
    tell(
        "features: streamed from the store every epoch, as they need more than --memory "
        f"{size_text(options.memory)}"
    )
    return "streamed"


class Fitted(NamedTuple):
    """The result of all fits of a run.

    Attributes:
      records: of the trained heads.
      failed: records of the heads that failed, each with its reason.
      features: how features were read: ``memory`` or ``streamed``.
      heads: head_id -> spelling of heads that are none of the options' trials.
      facts: of the summary and of the run's options, by name.
    """

    records: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    features: str
    heads: Mapping[str, str] = {}
    facts: Mapping[str, Any] = {}


def write_run(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    options: TrainOptions,
    tell: Callable[[str], None],
    fit: Callable[[Callable[[], None]], Fitted],
) -> dict[str, Any]:
    """Writes a run around the fits of its heads; other arguments and result as in `train_run`.

    Args:
      fit: fits and saves heads; calls its argument once, before it saves the first head.
    """
    started = time.perf_counter()
    # Before the fits, because a store without its base fails here.
    models = output.copy_models(store, storage)
    _tell_rows(store, division, tell)

    def replace_older() -> None:
        output.clear_output(storage, models)
        output.copy_probes(store, storage)

    fitted = fit(replace_older)
    board = leaderboard(fitted.records)
    run_folder.write_leaderboard(storage, board)
    summary = _summary(store, storage, division, board)
    summary |= {"features": fitted.features, "failed": fitted.failed, **fitted.facts}
    summary["seconds"] = round(time.perf_counter() - started, 3)
    storage.write(run_folder.SUMMARY, run_folder.dump_json(summary))
    storage.write(run_folder.RUN, _config(store, division, options, fitted).to_json())
    remove_checkpoint(storage)
    output.finish_output(storage)
    report_training(storage, store, tell)
    best = board[0]
    tell(
        f"best: {best['head_id']}, validation accuracy {best['val_accuracy']:.4f}, loss "
        f"{best['val_loss']:.4f}; run written to {storage.public_url}"
    )
    return summary


def leaderboard(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ranks heads by validation loss, lowest first; ties go to fewer parameters, then the name."""
    ranked = sorted(records, key=lambda r: (r["val_loss"], r["parameters"], r["head_id"]))
    return [{"rank": rank, **record} for rank, record in enumerate(ranked, 1)]


def _config(
    store: FeatureStore,
    division: Division,
    options: TrainOptions,
    fitted: Fitted,
) -> run_folder.RunConfig:
    trained = {record["head_id"] for record in fitted.records if record["kept"]}
    spelled = {name: str(trial.head) for name, trial in options.trials().items()}
    heads = {name: text for name, text in {**spelled, **fitted.heads}.items() if name in trained}
    return run_folder.RunConfig(
        store.spec,
        store.url,
        division.classes,
        heads,
        {
            **options.to_record(),
            "multi_label": "on" if division.multi_label else "off",
            **fitted.facts,
        },
        division.carve,
        __version__,
    )


def _tell_rows(store: FeatureStore, division: Division, tell: Callable[[str], None]) -> None:
    tell(
        f"{store.url}: {division.rows[0]} training rows of {len(division.classes)} "
        f"classes, {division.rows[1]} validation rows "
        f"{SOURCES[division.source]}"
    )
    for note in division.notes:
        tell(f"note: {note}")


def _summary(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    board: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    parts = original_parts(store.storage, store.markers().values())
    return {
        "run": storage.public_url,
        "store": store.url,
        "classes": list(division.classes),
        "train_rows": division.rows[0],
        "validation_rows": division.rows[1],
        "class_rows": division.train_counts.tolist(),
        "validation": division.source,
        "splits": {name or "none": rows for name, rows in store.split_counts().items()},
        "store_fingerprint": digest(parts)[:16],
        "notes": list(division.notes),
        "best": board[0]["head_id"],
        "leaderboard": list(board),
    }
