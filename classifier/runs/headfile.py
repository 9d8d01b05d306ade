"""The file of a head in a run: written and read without Keras, unless the head needs it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from classifier.base.saved import UNREADABLE
from classifier.heads.headgraph import HeadGraph
from classifier.runtime import import_keras
from featurestore.errors import CorruptStore, cause
from featurestore.io.retry import naming
from featurestore.io.storage import Storage

if TYPE_CHECKING:
    import keras


def head_file(head_id: str) -> str:
    """Returns the path of a head."""
    return f"heads/{head_id}.keras"


def save_head(storage: Storage, head_id: str, head: HeadGraph | keras.Model) -> None:
    """Writes a trained head into a run."""
    if isinstance(head, HeadGraph):
        storage.write(head_file(head_id), head.to_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        path = Path(folder) / f"{head_id}.keras"
        with naming(str(path)):
            head.save(path)
        storage.write(head_file(head_id), path.read_bytes())


def read_head(storage: Storage, head_id: str) -> HeadGraph:
    """Reads a head.

    Raises:
      CorruptStore: when the file is missing or damaged.
    """
    try:
        return HeadGraph.from_bytes(storage.read(head_file(head_id)))
    except (*UNREADABLE, BadZipFile) as error:
        raise _damaged(storage, head_id, error) from error


def load_head(storage: Storage, head_id: str) -> keras.Model:
    """Loads a head as a Keras model.

    Raises:
      CorruptStore: when the file is missing or damaged.
    """
    keras = import_keras()
    try:
        with storage.local_copy(head_file(head_id)) as path:
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except UNREADABLE as error:
        raise _damaged(storage, head_id, error) from error


def _damaged(storage: Storage, head_id: str, error: Exception) -> CorruptStore:
    return CorruptStore(
        f"{storage.public_url}/{head_file(head_id)} cannot be loaded ({cause(error)}); train again"
    )
