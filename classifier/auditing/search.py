"""Finds the stored images nearest to given features: exactly, in two passes over a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.auditing.rows import directions_of, reduced
from classifier.heads.head import Moments, Standard
from classifier.judgement.outcomes import ROW_COLUMNS
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from featurestore import FeatureStore

# What a match tells, and what leads to its image.
COLUMNS = (*ROW_COLUMNS, "labels", "split")


@dataclass(frozen=True)
class Match:
    """A stored image.

    Attributes:
      cosine: of the standardised features, with those that were looked for.
      columns: ``key``, ``split``, ``labels`` and what leads to the image.
    """

    cosine: float
    columns: dict[str, Any]

    def to_record(self) -> dict[str, Any]:
        """Returns what a user wants to know, as JSON values."""
        names = ("key", "uri", "labels", "split")
        return {"cosine": self.cosine, **{name: self.columns[name] for name in names}}


def store_standard(store: FeatureStore) -> Standard:
    """Returns mean and deviation of the store's vectors.

    Raises:
      UsageError: for a store without rows.
    """
    moments = None
    for batch in store.scan(("features",), views=[0]):
        vectors = reduced(batch["features"], store.spec.is_pixels)
        moments = moments or Moments(vectors.shape[1])
        moments.update(vectors)
    if moments is None:
        raise UsageError(f"the store at {store.url} has no rows to search in")
    return moments.standard()


def search(
    store: FeatureStore,
    features: np.ndarray,
    most: int,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> list[Match]:
    """Returns the nearest stored images, nearest first.

    Args:
      store: at one moment.
      features: (\\*feature_shape) of an image, as the store would hold them.
      most: how many are wanted.
      labels: only images with one of these; None for all.
      splits: only images of these splits; None for all.
    """
    standard, is_pixels = store_standard(store), store.spec.is_pixels
    wanted = directions_of(features[None], standard, is_pixels)[0]
    found: list[Match] = []
    for batch in store.scan((*COLUMNS, "features"), splits=splits, labels=labels, views=[0]):
        units = directions_of(batch.pop("features"), standard, is_pixels)
        cosines = units @ wanted
        for row in np.argsort(-cosines, kind="stable")[:most].tolist():
            values = {name: column[row] for name, column in batch.items()}
            plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}
            found.append(Match(float(cosines[row]), {**plain, "labels": list(plain["labels"])}))
        found = sorted(found, key=lambda match: -match.cosine)[:most]
    return found
