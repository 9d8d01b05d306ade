"""Stacks of heads, and rows they can learn from."""

from __future__ import annotations

import numpy as np

from support.features import clusters, make_store


def blurred(folder, classes, count=300, channels=12, spec=None):
    """A store whose classes overlap, so that heads neither finish nor agree."""
    features, labels = clusters(count, classes, channels)
    features += np.random.default_rng(7).normal(0, 2, features.shape).astype(np.float32)
    shape = spec.feature_shape if spec else (channels,)
    return make_store(folder, features.reshape(-1, *shape), labels, spec=spec)
