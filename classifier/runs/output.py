"""Prepares the output folder of a training run, and decides what may be deleted there.

A folder belongs to Hoarfrost if it holds ``run.json`` of a finished run, or the marker
``run.started.json``, which a run writes first and removes last. Even there, only files with names
that a run writes are replaced. Writing the marker also shows, before training, that the folder is
writable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from classifier.base.stored import RESTORE
from classifier.runs.run import CONTENT, REPORT, RUN, SUMMARY, dump_json
from classifier.runs.sweep import FOLDER, TAPS, read_taps
from featurestore import layout
from featurestore.errors import CorruptStore, UsageError, cannot_write
from featurestore.io.places import relation
from featurestore.io.storage import Storage
from featurestore.store import FeatureStore

STARTED = "run.started.json"
# The names of a run's files; other files in its folder belong to somebody else. The model card
# stays, because its last section is filled in by hand.
_OURS = re.compile(
    rf"{TAPS}|{FOLDER}/[^/]+\.json|({FOLDER}/[^/]+/)?({RUN}"
    rf"|heads/[^/]+\.keras|history/[^/]+\.json|plots/[^/]+-history\.png"
    rf"|model/[0-9a-f]{{32}}(\.keras|\.int8\.zip)"
    rf"|{re.escape(layout.PROBES)}|evaluation/[^/]+\.(json|png)|leaderboard\.(json|csv)"
    rf"|(calibration|learning)/[^/]+\.json|{re.escape(SUMMARY)}|{re.escape(REPORT)})"
)


def prepare_output(storage: Storage, store: FeatureStore | None, overwrite: bool) -> None:
    """Claims the folder of a new run; deletes nothing, so that an older run stays complete.

    Args:
      storage: the folder.
      store: to train on; None for a run that has no store.
      overwrite: whether a finished run may be replaced.

    Raises:
      UsageError: for a folder that holds a run, a store or somebody else's files, and for one that
        is not writable.
    """
    if store:
        _refuse_store(storage, store)
    started = dump_json({"store": store.url if store else ""})
    try:
        if storage.exists(layout.SPEC):
            raise UsageError(
                f"--output: {storage.public_url} is a feature store; choose another folder"
            )
        finished = _holds_run(storage)
        if finished and not overwrite:
            raise UsageError(
                f"--output: {storage.public_url} holds a training run already; choose another "
                "folder, or add --overwrite to replace it"
            )
        if not finished and not storage.exists(STARTED):
            _refuse_foreign(storage)
        if not storage.create(STARTED, started):
            storage.write(STARTED, started)
    except (OSError, ValueError) as error:
        raise cannot_write("--output", storage.public_url, error) from error


def _refuse_store(storage: Storage, store: FeatureStore) -> None:
    """Refuses the store's own folder, a folder around it, and a folder in it."""
    found = relation(storage.url, store.storage.url, storage.options)
    if found:
        found = {"equals": "is"}.get(found, found)
        raise UsageError(
            f"--output: {storage.public_url} {found} the feature store to train on; "
            "choose another folder"
        )


def _holds_run(storage: Storage) -> bool:
    """Returns whether the folder holds a finished run, or those of several taps.

    Another file of that name does not count.
    """
    try:
        if read_taps(storage):
            return True
        if not storage.exists(RUN):
            return False
        return json.loads(storage.read(RUN)).get("format") == "hoarfrost-run"
    except (CorruptStore, ValueError, AttributeError):
        return False


def _refuse_foreign(storage: Storage) -> None:
    for name in (RUN, *CONTENT):
        if storage.exists(name):
            raise UsageError(
                f"--output: {storage.public_url} has {name!r} in it but is not a training run of "
                "Hoarfrost, so nothing is written there; choose another folder"
            )


def clear_output(storage: Storage, keep: Sequence[str]) -> None:
    """Deletes the files of an older run one by one.

    Args:
      storage: a folder that `prepare_output` claimed.
      keep: the new run's models, which are already there.
    """
    files = storage.list("")
    # The commit is removed first: an interruption leaves an unfinished run, never a mixed one.
    storage.remove(RUN)
    storage.remove(TAPS)
    for file in files:
        if _OURS.fullmatch(file.name) and file.name not in keep:
            storage.remove(file.name)


def finish_output(storage: Storage) -> None:
    """Removes the marker: from now on ``run.json`` marks the folder as a run."""
    storage.remove(STARTED)


def copy_models(store: FeatureStore, storage: Storage) -> tuple[str, ...]:
    """Copies the store's base into a run, and its int8 model if it has one.

    Models are named by their content, so the copies change nothing in an older run.

    Returns:
      The files' paths in the run.

    Raises:
      CorruptStore: when a model or the probe images are missing in the store.
    """
    names = layout.model_files(store.spec.base.weights_hash, store.spec.numerics.model)
    for needed in (*names, layout.PROBES):
        if not store.storage.exists(needed):
            raise _missing(store, needed)
    for name in names:
        _copy(store, storage, name)
    return names


def copy_probes(store: FeatureStore, storage: Storage) -> None:
    """Copies the store's probe images into a run.

    Raises:
      CorruptStore: when they are missing in the store.
    """
    _copy(store, storage, layout.PROBES)


def _copy(store: FeatureStore, storage: Storage, name: str) -> None:
    try:
        data = store.storage.read(name)
    except FileNotFoundError as error:
        raise _missing(store, name) from error
    storage.write(name, data)


def _missing(store: FeatureStore, name: str) -> CorruptStore:
    if name == layout.quantised_file(store.spec.numerics.model):
        fix = RESTORE
    else:
        fix = "run the extraction again, which writes it"
    return CorruptStore(f"{store.url}/{name} is missing, and predicting needs the base; {fix}")
