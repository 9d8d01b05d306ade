"""The folder a training run is written into: whose it is, what may be deleted there.

Nothing is deleted on a guess. A folder is ours when it holds ``run.json`` of a finished run, or the
marker ``run.started.json``, which a run writes first and removes last; in a folder of ours, only
files whose names are those that a run writes are replaced. The marker proves too, before anything
is trained, that the folder can be written to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from classifier.runs.run import CONTENT, REPORT, RUN, SUMMARY, dump_json
from featurestore import layout
from featurestore.errors import CorruptStore, UsageError, cannot_write
from featurestore.io.places import relation
from featurestore.io.storage import Storage
from featurestore.store import FeatureStore

STARTED = "run.started.json"
# The files of an older run; whatever else is in its folder is not ours.
_OURS = re.compile(
    rf"heads/[^/]+\.keras|history/[^/]+\.json|plots/[^/]+-history\.png"
    rf"|model/[0-9a-f]{{32}}(\.keras|\.int8\.zip)"
    rf"|{re.escape(layout.PROBES)}|evaluation/[^/]+\.(json|png)|leaderboard\.(json|csv)"
    rf"|(calibration|learning)/[^/]+\.json|{re.escape(SUMMARY)}|{re.escape(REPORT)}"
)


def prepare_output(storage: Storage, store: FeatureStore, overwrite: bool) -> None:
    """Takes possession of a run's folder; deletes nothing, so that an older run is still whole.

    Args:
      storage: the folder.
      store: that is to be learned from.
      overwrite: whether a finished run may be replaced.

    Raises:
      UsageError: for a folder that holds a run, a store or files of somebody else's, and for one
        that cannot be written to.
    """
    _refuse_store(storage, store)
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
        if not storage.create(STARTED, dump_json({"store": store.url})):
            storage.write(STARTED, dump_json({"store": store.url}))
    except (OSError, ValueError) as error:
        raise cannot_write("--output", storage.public_url, error) from error


def _refuse_store(storage: Storage, store: FeatureStore) -> None:
    """Refuses the store's own folder, one around it, and one within it."""
    found = relation(storage.url, store.storage.url, storage.options)
    if found:
        found = {"equals": "is"}.get(found, found)
        raise UsageError(
            f"--output: {storage.public_url} {found} the feature store that is learned from; "
            "choose another folder"
        )


def _holds_run(storage: Storage) -> bool:
    """Whether a finished run is there; somebody else's file of that name is none."""
    if not storage.exists(RUN):
        return False
    try:
        return json.loads(storage.read(RUN)).get("format") == "hoarfrost-run"
    except (ValueError, AttributeError):
        return False


def _refuse_foreign(storage: Storage) -> None:
    for name in (RUN, *CONTENT):
        if storage.exists(name):
            raise UsageError(
                f"--output: {storage.public_url} has {name!r} in it and is no training run of "
                "Hoarfrost's, so nothing is written there; choose another folder"
            )


def clear_output(storage: Storage, keep: Sequence[str]) -> None:
    """Deletes what an older run left, file by file.

    Args:
      storage: a folder that `prepare_output` took.
      keep: the new run's models, which are there already.
    """
    files = storage.list("")
    # The commit goes first: dying half-way leaves an unfinished run, never a mixed one.
    storage.remove(RUN)
    for file in files:
        if _OURS.fullmatch(file.name) and file.name not in keep:
            storage.remove(file.name)


def finish_output(storage: Storage) -> None:
    """Removes the marker: from now on ``run.json`` says whose the folder is."""
    storage.remove(STARTED)


def copy_models(store: FeatureStore, storage: Storage) -> tuple[str, ...]:
    """Copies the store's base into a run, and its int8 model where there is one.

    They are named by their content, so an older run stays whole.

    Returns:
      The files' paths in the run.

    Raises:
      CorruptStore: when the store has lost one, or its probe images.
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
      CorruptStore: when the store has lost them.
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
        fix = "restore it from a backup, or extract into a new store"
    else:
        fix = "run the extraction again, which writes it"
    return CorruptStore(f"{store.url}/{name} is missing, and predicting needs the base; {fix}")
