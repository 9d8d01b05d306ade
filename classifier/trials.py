"""All the heads of a run: each is fitted, told of and saved; those that diverge are set aside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from classifier import plots
from classifier import run as run_folder
from classifier.exact import train_exact
from classifier.exactspec import ExactSpec
from classifier.options import TrainOptions, Trial
from classifier.training import TrainedHead, TrainingData, train_head
from featurestore.errors import RunFailed
from featurestore.storage import Storage

PROGRESS_SECONDS = 10.0


def fit_all(
    storage: Storage,
    data: TrainingData,
    options: TrainOptions,
    tell: Callable[[str], None],
    replace_older: Callable[[], None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Fits and saves every head; one that diverges does not end the run.

    Args:
      storage: the run's folder.
      data: to fit on.
      options: hyperparameters.
      tell: takes lines for the user.
      replace_older: called once, when there is something to replace an older run by.

    Returns:
      (records of the trained heads, records of those that failed, each with its reason).

    Raises:
      RunFailed: when every head failed.
    """
    records: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for head_id, trial in options.trials().items():
        spec = trial.head
        try:
            if isinstance(spec, ExactSpec):
                trained = train_exact(spec, data, options)
            else:
                progress = _progress(head_id, options.epochs, tell)
                trained = train_head(trial, data, options, progress)
        except RunFailed as error:
            failed.append(
                {"head_id": head_id, "head": str(spec), "lr": trial.lr, "reason": str(error)}
            )
            tell(f"{head_id}: {error}")
            continue
        if not records:
            replace_older()
        records.append(keep_head(storage, head_id, trial, trained, tell))
        tell(head_line(records[-1], options.epochs))
    if not records:
        names = ", ".join(record["head_id"] for record in failed)
        raise RunFailed(f"every head diverged ({names}); the first {failed[0]['reason']}")
    return records, failed


def _progress(
    head_id: str, epochs: int, tell: Callable[[str], None]
) -> Callable[[int, Mapping[str, float]], None]:
    last = time.monotonic()

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        # A short fit says nothing until it is done.
        if epoch < epochs and time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            tell(
                f"  {head_id}: epoch {epoch}/{epochs}, validation accuracy "
                f"{metrics['val_accuracy']:.4f}, loss {metrics['val_loss']:.4f}"
            )

    return on_epoch


def keep_head(
    storage: Storage,
    head_id: str,
    trial: Trial,
    trained: TrainedHead,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Saves a fitted head with its history; returns its record for the leaderboard."""
    _save(storage, head_id, trained, isinstance(trial.head, ExactSpec), tell)
    return {
        "head_id": head_id,
        "head": str(trial.head),
        "lr": trial.lr,
        "l2": trained.l2,
        **trained.best,
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.history["loss"]),
        "parameters": sum(math.prod(weight.shape) for weight in trained.model.trainable_weights),
        "seconds": round(trained.seconds, 3),
        "rows_per_second": round(trained.rows_per_second, 1),
    }


def head_line(record: Mapping[str, Any], epochs: int) -> str:
    """Returns a record of the leaderboard as a line for the user."""
    where = f"epoch {record['best_epoch']}/{epochs}"
    if record["lr"] is None:
        where = "--l2 none" if record["l2"] is None else f"--l2 {record['l2']:.3g}"
    return (
        f"{record['head_id']}: validation accuracy {record['val_accuracy']:.4f}, loss "
        f"{record['val_loss']:.4f} at {where}; "
        f"{record['seconds']:.1f} s, {record['rows_per_second']:,.0f} rows/s"
    )


def _save(
    storage: Storage,
    head_id: str,
    trained: TrainedHead,
    exact: bool,
    tell: Callable[[str], None],
) -> None:
    run_folder.save_head(storage, head_id, trained.model)
    history: dict[str, Any] = {**trained.history, "best_epoch": trained.best_epoch}
    if trained.penalties:
        history["penalties"] = trained.penalties
    storage.write(run_folder.history_file(head_id), run_folder.dump_json(history))
    if exact:
        # A curve over epochs needs epochs.
        return
    plots.write_or_skip(
        storage,
        run_folder.history_plot_file(head_id),
        lambda: plots.history_figure(trained.history, trained.best_epoch, head_id),
        tell,
    )
