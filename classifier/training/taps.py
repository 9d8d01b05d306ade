"""Trains the same heads on several taps of a store, and ranks them together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from classifier.features.division import Division
from classifier.heads.exact import check_heads
from classifier.heads.options import TrainOptions
from classifier.heads.stacked.checkpoint import remove_checkpoint
from classifier.judgement.judge import comparison_line
from classifier.reporting.tapspage import renew_taps_page
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.runs.sweep import folders_of, write_taps
from classifier.training.run import decisive_of, leaderboard, train_run
from classifier.training.tapstandings import compare_taps
from featurestore import FeatureStore, UsageError
from featurestore.io.storage import Storage
from featurestore.numerics import digest

Record = dict[str, Any]


def train_taps(
    stores: Mapping[str, FeatureStore],
    storage: Storage,
    division: Division,
    options: TrainOptions,
    tell: Callable[[str], None],
    checkpoint_seconds: float,
) -> Record:
    """Trains every head of `options` on every tap; other arguments as in `train_run`.

    Args:
      stores: name of a tap -> the store as one of this tap; at least two.
      storage: the folder of the training, prepared.

    Returns:
      The summary that is written as ``summary.json``.
    """

    def train(store: FeatureStore, own: Storage) -> Record:
        return train_run(store, own, division, options, tell, checkpoint_seconds)

    folders = folders_of(stores)
    decisive = {tap: digest(decisive_of(store, division, options)) for tap, store in stores.items()}
    rows = _train_each(stores, storage, decisive, train, tell)
    board = leaderboard(rows)
    firsts: dict[str, Record] = {}
    for row in board:
        firsts.setdefault(row["tap"], row)
    best = [{**row, "folder": folders[row["tap"]]} for row in firsts.values()]
    runs = {
        row["tap"]: run_folder.load_run(f"{storage.url}/{row['folder']}", storage.options)
        for row in best
    }
    summary = {
        "run": storage.public_url,
        "store": next(iter(stores.values())).url,
        "tap": best[0]["tap"],
        "best": best[0]["head_id"],
        **compare_taps(stores, runs, best, tell),
        "leaderboard": board,
    }
    run_folder.write_leaderboard(storage, board)
    storage.write(run_folder.SUMMARY, run_folder.dump_json(summary))
    write_taps(storage, {row["tap"]: row["folder"] for row in best})
    _forget(storage, folders)
    output.finish_output(storage)
    renew_taps_page(storage, tell)
    _tell_best(best, summary["comparison"], tell)
    tell(f"best tap: {best[0]['tap']}; runs written to {storage.public_url}")
    return summary


def _tell_best(best: list[Record], comparison: Any, tell: Callable[[str], None]) -> None:
    for row in best:
        tell(
            f"tap {row['tap']}: {row['head_id']}, validation accuracy {row['val_accuracy']:.4f}, "
            f"loss {row['val_loss']:.4f}"
        )
    if comparison:
        first, second = (f"{row['tap']} {row['head_id']}" for row in best[:2])
        tell(comparison_line(first, second, comparison))


def _train_each(
    stores: Mapping[str, FeatureStore],
    storage: Storage,
    decisive: Mapping[str, str],
    train: Callable[[FeatureStore, Storage], Record],
    tell: Callable[[str], None],
) -> list[Record]:
    """Trains on each tap, unless an interrupted training has; returns the rows of their heads."""
    folders, rows = folders_of(stores), list[Record]()
    done = {tap: found for tap in stores if (found := _done(storage, folders[tap], decisive[tap]))}
    # The runs of an older training have the same folders.
    kept = tuple(name for tap in done for name in (f"{folders[tap]}/", _mark(folders[tap])))
    output.clear_output(storage, [f.name for f in storage.list("") if f.name.startswith(kept)])
    for tap, store in stores.items():
        own = Storage(f"{storage.url}/{folders[tap]}", storage.options)
        tell(f"tap {tap}:" + (" trained before the interruption" if tap in done else ""))
        if tap not in done:
            # Whatever is there belongs to this training, whose folder was claimed.
            own.create(output.STARTED, "{}\n")
            output.prepare_output(own, store, overwrite=True)
            done[tap] = train(store, own)
            storage.write(_mark(folders[tap]), json.dumps(decisive[tap]))
        for row in done[tap]["leaderboard"]:
            rows.append({"tap": tap, **{name: row[name] for name in row if name != "rank"}})
    return rows


def _mark(folder: str) -> str:
    """Returns the file of an unfinished training that says how the run of a tap was made."""
    return f"{folder}.json"


def _forget(storage: Storage, folders: Mapping[str, str]) -> None:
    for folder in folders.values():
        storage.remove(_mark(folder))


def _done(storage: Storage, folder: str, decisive: str) -> Record | None:
    """Returns the summary of a tap's run, if an interrupted training has made just that one."""
    try:
        if json.loads(storage.read(_mark(folder))) == decisive:
            return json.loads(storage.read(f"{folder}/{run_folder.SUMMARY}"))
    except (FileNotFoundError, ValueError):
        pass
    return None


def check_taps(
    stores: Mapping[str, FeatureStore], options: TrainOptions, division: Division
) -> None:
    """Refuses heads that one of the taps cannot have.

    Raises:
      UsageError: naming the tap.
    """
    for tap, store in stores.items():
        try:
            check_heads(options, store.spec.feature_shape, division)
        except UsageError as error:
            raise UsageError(f"--tap {tap}: {error}") from error


def prepare_taps(storage: Storage, stores: Mapping[str, FeatureStore], overwrite: bool) -> None:
    """Prepares the folder of the training; --overwrite drops what an older one would go on from.

    Raises:
      UsageError: for a folder that must not be written.
    """
    output.prepare_output(storage, next(iter(stores.values())), overwrite)
    if overwrite:
        _forget(storage, folders_of(stores))
        for folder in folders_of(stores).values():
            remove_checkpoint(Storage(f"{storage.url}/{folder}", storage.options))
