"""Where the rows of a store lie on a map of two dimensions: by PCA, or by UMAP.

UMAP keeps neighbours together, so kinds of images become islands, but distances between these mean
little (McInnes, Healy and Melville, "UMAP: uniform manifold approximation and projection", 2018).
It gets the first 50 principal components, as its authors advise for long vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from classifier.auditing.directions import directions
from classifier.auditing.rows import AuditRows
from featurestore.errors import UsageError

PCA, UMAP = "pca", "umap"
WAYS = (PCA, UMAP)
COMPONENTS = 50
# Chromium needs 13 ms of one core to draw so many, and they are a few megabytes of the page.
MOST_POINTS = 100_000


@dataclass(frozen=True)
class Places:
    """A map.

    Attributes:
      xy: float32 (n, 2).
      way: one of `WAYS`.
      share: of the whole variance, what two principal components hold; None for UMAP.
    """

    xy: np.ndarray
    way: str
    share: float | None


def check_way(way: str, count: int) -> None:
    """Refuses UMAP without its package, and of more rows than a page shows.

    Raises:
      UsageError: naming what to install, or the limit.
    """
    if way == UMAP and find_spec("umap") is None:
        raise UsageError(
            "--map umap needs umap-learn, which is not installed: pip install 'hoarfrost[umap]'; "
            "or leave --map out, for principal directions"
        )
    if way == UMAP and count > MOST_POINTS:
        raise UsageError(
            f"--map umap takes up to {MOST_POINTS:,} images, and the store has {count:,}; "
            "leave --map out, for principal directions"
        )


def places_of(rows: AuditRows, way: str = PCA) -> Places:
    """Returns the map of all rows. A row of one value has a second coordinate of 0."""
    found = directions(rows, COMPONENTS if way == UMAP else 2)
    places = found.places(rows)
    if way == UMAP:
        import umap

        reducer = umap.UMAP(n_neighbors=min(15, len(rows) - 1), random_state=0, n_jobs=1)
        return Places(reducer.fit_transform(places).astype(np.float32), way, None)
    missing = 2 - places.shape[1]
    return Places(np.pad(places, ((0, 0), (0, missing))), way, float(found.share.sum()))
