"""The engine of a store of pixels: it keeps pixels as they are, or makes them grey."""

from __future__ import annotations

import numpy as np

from classifier.engines.engine import IDENTITY, check_batch, check_batch_size
from classifier.pixels.grey import to_grey
from featurestore.spec import StoreSpec


class IdentityEngine:
    """Gives the pixels of a batch as its features; starts neither TensorFlow nor OpenVINO.

    Args:
      spec: of a store of pixels.
      batch_size: images per call.
    """

    def __init__(self, spec: StoreSpec, batch_size: int) -> None:
        check_batch_size(batch_size)
        self.batch_size = batch_size
        self.feature_shape = spec.feature_shape
        self.numerics = IDENTITY.numerics
        self._shape = (batch_size, *spec.pixels.image_size, 3)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to uint8 (batch_size, *feature_shape); may not copy."""
        check_batch(batch, self._shape)
        return batch if self.feature_shape[-1] == 3 else to_grey(batch)
