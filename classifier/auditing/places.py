"""Where the rows of a store lie on a map of two dimensions."""

from __future__ import annotations

import numpy as np

from classifier.auditing.directions import directions
from classifier.auditing.rows import AuditRows


def places_of(rows: AuditRows) -> tuple[np.ndarray, float]:
    """Returns float32 (n, 2): the first two principal components; and their share of the variance.

    A row of one value has a second coordinate of 0.
    """
    found = directions(rows, 2)
    places = found.places(rows)
    missing = 2 - places.shape[1]
    return np.pad(places, ((0, 0), (0, missing))), float(found.share.sum())
