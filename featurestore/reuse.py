"""Finds stored features by content, so that no image is computed twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from featurestore.schema import FEATURES, decode_features
from featurestore.store import FeatureStore

Place = tuple[str, int, int]  # part, row group, row


@dataclass
class StoredFeatures:
    """The features of a store by the content they were computed from.

    Attributes:
      store: that holds them.
      places: digest of the content hash and the view -> where its features are.
    """

    store: FeatureStore
    places: Mapping[bytes, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, store: FeatureStore) -> StoredFeatures:
        """Indexes every stored row, superseded ones too: the same bytes give the same features."""
        places: dict[bytes, Place] = {}
        for marker in store.markers().values():
            if not marker.part:
                continue
            with store.storage.open_parquet(f"parts/{marker.part}") as part:
                for group in range(part.num_row_groups):
                    table = part.read_row_group(group, columns=["content_hash", "view"])
                    hashes, views = table["content_hash"].to_pylist(), table["view"].to_pylist()
                    for row, (text, view) in enumerate(zip(hashes, views, strict=True)):
                        place = (marker.part, group, row)
                        places.setdefault(_digest(text, view), place)
        return cls(store, places)

    def get(self, content_hash: str, view: int = 0) -> np.ndarray | None:
        """Returns a view's features by its content, (\\*feature_shape); None where not stored."""
        place = self.places.get(_digest(content_hash, view))
        if place is None:
            return None
        part_name, group, row = place
        with self.store.storage.open_parquet(f"parts/{part_name}") as part:
            table = part.read_row_group(group, columns=[FEATURES]).slice(row, 1)
        return decode_features(table[FEATURES], self.store.spec)[0].astype(np.float32)


def _digest(content_hash: str, view: int) -> bytes:
    return bytes.fromhex(content_hash)[:16] + bytes([view])
