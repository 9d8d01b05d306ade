"""Opens the store that a run adds to, without loading what builds a base."""

from __future__ import annotations

from featurestore import layout
from featurestore.errors import UsageError
from featurestore.io.storage import Storage
from featurestore.store import FeatureStore, open_store


def existing_store(storage: Storage) -> FeatureStore | None:
    """Opens the store if it exists.

    Raises:
      UsageError: when the output cannot be reached.
    """
    try:
        found = storage.exists(layout.SPEC)
    except (OSError, ValueError) as error:
        raise UsageError(f"--output: cannot reach {storage.public_url!r}: {error}") from error
    return open_store(storage.url, storage.options) if found else None
