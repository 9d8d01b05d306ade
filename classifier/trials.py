"""All the heads of a run: each is fitted, told of and saved; those that diverge are set aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from classifier import plots
from classifier import run as run_folder
from classifier.options import TrainOptions
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
    for head_id, (spec, rate) in options.trials().items():
        progress = _progress(head_id, options.epochs, tell)
        try:
            trained = train_head(spec, rate, data, options, progress)
        except RunFailed as error:
            failed.append({"head_id": head_id, "head": str(spec), "lr": rate, "reason": str(error)})
            tell(f"{head_id}: {error}")
            continue
        if not records:
            replace_older()
        records.append(_record(head_id, str(spec), rate, trained))
        _save(storage, head_id, trained, tell)
        tell(_line(records[-1], options.epochs))
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


def _record(head_id: str, head: str, rate: float, trained: TrainedHead) -> dict[str, Any]:
    return {
        "head_id": head_id,
        "head": head,
        "lr": rate,
        **trained.best,
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.history["loss"]),
        "parameters": sum(int(weight.size) for weight in _trainable(trained)),
        "seconds": round(trained.seconds, 3),
        "rows_per_second": round(trained.rows_per_second, 1),
    }


def _trainable(trained: TrainedHead):
    return (weight.value.numpy() for weight in trained.model.trainable_weights)


def _line(record: Mapping[str, Any], epochs: int) -> str:
    return (
        f"{record['head_id']}: validation accuracy {record['val_accuracy']:.4f}, loss "
        f"{record['val_loss']:.4f} at epoch {record['best_epoch']}/{epochs}; "
        f"{record['seconds']:.1f} s, {record['rows_per_second']:,.0f} rows/s"
    )


def _save(
    storage: Storage, head_id: str, trained: TrainedHead, tell: Callable[[str], None]
) -> None:
    run_folder.save_head(storage, head_id, trained.model)
    history = {**trained.history, "best_epoch": trained.best_epoch}
    storage.write(run_folder.history_file(head_id), run_folder.dump_json(history))
    plots.write_or_skip(
        storage,
        run_folder.history_plot_file(head_id),
        lambda: plots.history_figure(trained.history, trained.best_epoch, head_id),
        tell,
    )
