"""Fits and saves all heads of a run; a head that diverges does not end the run.

A history holds the pure cross entropy, without the L2 penalty and without class weights. So heads
of different settings are comparable, and evaluating a saved head repeats the figure of its best
epoch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from classifier.figures import plots
from classifier.heads.data import Fit, TrainedHead, TrainingData
from classifier.heads.exact import train_exact
from classifier.heads.head import outputs_for
from classifier.heads.network.architecture import build_network
from classifier.heads.network.fit import Network
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.heads.stacked.fit import (
    OnEpoch,
    StackedFit,
    diverged,
    fit_stacked,
    trained_head,
)
from classifier.heads.stacked.progress import Progress
from classifier.runs import run as run_folder
from classifier.runs.headfile import save_head
from featurestore.errors import RunFailed
from featurestore.io.storage import Storage

PROGRESS_SECONDS = 10.0

Record = dict[str, Any]


def fit_all(
    storage: Storage,
    data: TrainingData,
    options: TrainOptions,
    tell: Callable[[str], None],
    replace_older: Callable[[], None],
    checkpoint: Checkpoint,
) -> tuple[list[Record], list[Record]]:
    """Fits every head and saves the best.

    Args:
      storage: the run's folder.
      data: to fit on.
      options: hyperparameters.
      tell: takes lines for the user.
      replace_older: called once, as soon as there is a head to replace an older run with.
      checkpoint: keeps the state of the training.

    Returns:
      (records of the trained heads, records of those that failed, each with its reason).

    Raises:
      RunFailed: if every head failed.
    """
    trials = options.trials()
    fits, failed = _fit_gradient(trials, data, options, tell, checkpoint)
    records: list[Record] = []
    exact = _fit_exact(trials, data, options, tell, failed)
    networks = _fit_networks(trials, data, options, tell, checkpoint, failed)
    best = (
        (name, trained_head(fit, trials[name], data)) for name, fit in fits.items() if fit.weights
    )
    for name, trained in itertools.chain(exact, networks, best):
        if not records:
            replace_older()
        records.append(keep_head(storage, name, trials[name], trained, options.epochs, tell))
    if not records:
        raise RunFailed(_none_left(failed))
    others = [name for name, fit in fits.items() if not fit.weights]
    records += [_keep_history(storage, name, trials[name], fits[name]) for name in others]
    if others:
        tell(f"{len(others)} more heads are in the leaderboard; --keep says how many are saved")
    return records, failed


def _fit_exact(
    trials: Mapping[str, Trial],
    data: TrainingData,
    options: TrainOptions,
    tell: Callable[[str], None],
    failed: list[Record],
) -> Iterator[tuple[str, TrainedHead]]:
    """Yields (head_id, head) of the exact heads; adds records of those that failed to `failed`."""
    for name, trial in trials.items():
        if not trial.head.is_exact:
            continue
        if choices := options.penalties_of(trial.head):
            tell(choices_line(name, choices))
        try:
            yield name, train_exact(trial.head, data, options)
        except RunFailed as error:
            failed.append(_failure(name, trial, str(error), tell))


def _fit_networks(
    trials: Mapping[str, Trial],
    data: TrainingData,
    options: TrainOptions,
    tell: Callable[[str], None],
    checkpoint: Checkpoint,
    failed: list[Record],
) -> Iterator[tuple[str, TrainedHead]]:
    """Yields (head_id, head) of the heads that Keras trains; adds those that failed to `failed`."""
    outputs = outputs_for(data.division.classes, data.division.multi_label)
    for name, trial in trials.items():
        if not trial.head.is_network:
            continue
        head = build_network(
            trial,
            data.feature_shape,
            outputs,
            is_pixels=data.is_pixels,
            standard=data.standard,
            multi_label=data.division.multi_label,
        )
        try:
            network = Network(head, trial, options, data)
            yield name, network.fit(name, progress_lines(options.epochs, tell), checkpoint)
        except RunFailed as error:
            failed.append(_failure(name, trial, str(error), tell))


def _fit_gradient(
    trials: Mapping[str, Trial],
    data: TrainingData,
    options: TrainOptions,
    tell: Callable[[str], None],
    checkpoint: Checkpoint,
) -> tuple[dict[str, StackedFit], list[Record]]:
    """Fits the heads that are trained by gradient steps.

    Returns:
      (fits, the best first; records of the heads that diverged). Fits beyond `--keep` are without
      weights, which would fill the memory over many waves.
    """
    fits: dict[str, StackedFit] = {}
    failed: list[Record] = []
    stacked = {name: trial for name, trial in trials.items() if trial.head.is_stacked}
    progress = progress_lines(options.epochs, tell)
    for wave in fit_stacked(stacked, data, options, progress, checkpoint):
        for name, fit in wave.items():
            if not fit.best_epoch:
                failed.append(_failure(name, trials[name], diverged(trials[name]), tell))
                continue
            fits[name] = fit
        ranked = sorted(
            fits,
            key=lambda name: (fits[name].best["val_loss"], fits[name].parameters, name),
        )
        fits = {
            name: fits[name] if place < options.keep else replace(fits[name], weights=())
            for place, name in enumerate(ranked)
        }
    return fits, failed


def _none_left(failed: Sequence[Record]) -> str:
    names = ", ".join(record["head_id"] for record in failed)
    return f"every head diverged ({names}); the first {failed[0]['reason']}"


def _failure(name: str, trial: Trial, reason: str, tell: Callable[[str], None]) -> Record:
    tell(f"{name}: {reason}")
    return {"head_id": name, "head": str(trial.head), "lr": trial.lr, "reason": reason}


def progress_lines(epochs: int, tell: Callable[[str], None]) -> OnEpoch:
    """Returns a function that tells the user how far a fit is, at most once in some seconds."""
    last = time.monotonic()

    def on_epoch(epoch: int, heads: Mapping[str, Progress]) -> None:
        nonlocal last
        # A short fit reports nothing before its end.
        if epoch < epochs and time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            name = min(heads, key=lambda name: heads[name].best_loss)
            under_way = sum(not head.ended for head in heads.values())
            tell(
                f"  epoch {epoch}/{epochs}, {under_way} heads; the best: {name}, validation loss "
                f"{heads[name].best_loss:.4f}"
            )

    return on_epoch


def keep_head(
    storage: Storage,
    head_id: str,
    trial: Trial,
    trained: TrainedHead,
    epochs: int,
    tell: Callable[[str], None],
) -> Record:
    """Saves a fitted head with its history.

    Args:
      storage: the run's folder.
      head_id: of the head.
      trial: that was fitted.
      trained: the result.
      epochs: at most, in this run.
      tell: takes lines for the user.

    Returns:
      Its record for the leaderboard.
    """
    save_head(storage, head_id, trained.model)
    _write_history(storage, head_id, trained, trained.penalties)
    if not trial.head.is_exact:  # an exact head has no epochs, and so no curve
        plots.write_or_skip(
            storage,
            run_folder.history_plot_file(head_id),
            lambda: plots.history_figure(trained.history, trained.best_epoch, head_id),
            tell,
        )
    record = _record(head_id, trial, trained, trained.l2, trained.parameters)
    tell(_head_line(record, epochs))
    return record


def _write_history(
    storage: Storage, head_id: str, fit: Fit, penalties: Mapping[str, Sequence[float]]
) -> None:
    history: dict[str, Any] = {**fit.history, "best_epoch": fit.best_epoch}
    if penalties:
        history["penalties"] = penalties
    storage.write(run_folder.history_file(head_id), run_folder.dump_json(history))


def _keep_history(storage: Storage, head_id: str, trial: Trial, fit: StackedFit) -> Record:
    """Saves the history of a head that is not among the best; returns its record."""
    _write_history(storage, head_id, fit, {})
    return {**_record(head_id, trial, fit, trial.l2, fit.parameters), "kept": False}


def _record(head_id: str, trial: Trial, fit: Fit, l2: float | None, parameters: int) -> Record:
    exact = trial.head.is_exact
    return {
        "head_id": head_id,
        "head": str(trial.head),
        "lr": trial.lr,
        "l2": l2,
        "optimizer": None if exact else trial.optimizer,
        "seed": None if exact else trial.seed,
        "label_smoothing": None if exact else trial.label_smoothing,
        **fit.best,
        "best_epoch": fit.best_epoch,
        "epochs": len(fit.history["loss"]),
        "parameters": parameters,
        "seconds": round(fit.seconds, 3),
        "rows_per_second": round(fit.rows_per_second, 1),
        "kept": True,
    }


def choices_line(name: str, penalties: Sequence[float]) -> str:
    """Returns the line that tells the user which penalties an exact head chooses from.

    Example:
      >>> choices_line("ridge", (0.01, 1.0, 100.0))
      'ridge: chooses among 3 penalties of 0.01 to 100'
    """
    if len(penalties) == 1:
        return f"{name}: takes the one penalty {penalties[0]:.3g}"
    span = f"{min(penalties):.3g} to {max(penalties):.3g}"
    return f"{name}: chooses among {len(penalties)} penalties of {span}"


def _head_line(record: Record, epochs: int) -> str:
    where = "--l2 none" if record["l2"] is None else f"--l2 {record['l2']:.3g}"
    if record["lr"] is not None:
        where = f"epoch {record['best_epoch']}/{epochs}, {where}"
    return (
        f"{record['head_id']}: validation accuracy {record['val_accuracy']:.4f}, loss "
        f"{record['val_loss']:.4f} at {where}; "
        f"{record['seconds']:.1f} s, {record['rows_per_second']:,.0f} rows/s"
    )
