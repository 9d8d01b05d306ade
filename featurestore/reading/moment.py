"""One moment of a store: the commits and labels that all readers of a command see.

Commits and label versions never change, so with their names another machine sees the same rows with
the same labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.commit import Marker, read_markers
from featurestore.errors import CorruptStore
from featurestore.io.storage import Storage
from featurestore.labels.overlay import Overlay, versions


@dataclass(frozen=True)
class Moment:
    """The commits and labels of a store at one moment.

    Attributes:
      markers: chunk_id -> commit, ordered by key.
      overlay: labels and splits that were added after the rows.
    """

    markers: Mapping[str, Marker]
    overlay: Overlay

    @classmethod
    def read(cls, storage: Storage) -> Moment:
        """Reads a store as it is now."""
        return cls(read_markers(storage), Overlay.read(storage, versions(storage)))

    def to_json(self) -> str:
        """Returns the names of all commits and label versions, for `restore`."""
        return json.dumps({"chunks": list(self.markers), "labels": self.overlay.versions})

    @classmethod
    def restore(cls, storage: Storage, names: str | bytes) -> Moment:
        """Reads the moment that `to_json` described, without anything that came later.

        Raises:
          CorruptStore: when a commit of that moment was deleted.
        """
        named = json.loads(names)
        found = read_markers(storage, replaced=True)
        gone = [chunk_id for chunk_id in named["chunks"] if chunk_id not in found]
        if gone:
            raise CorruptStore(
                f"{storage.public_url}: {len(gone)} commits were deleted while the store was read, "
                f"first {gone[0]}; run the same command again when no process edits the store"
            )
        markers = {chunk_id: found[chunk_id] for chunk_id in named["chunks"]}
        return cls(markers, Overlay.read(storage, named["labels"]))
