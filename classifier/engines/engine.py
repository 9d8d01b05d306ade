"""What every engine is: a function from a batch of pixels to features, and how it computes them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import numpy as np

from classifier.pixels import decode as pixels
from featurestore.errors import UsageError
from featurestore.numerics import Numerics

ENGINES = ("tensorflow", "openvino")
PRECISIONS = ("float32", "float16", "bfloat16", "int8")
_LIBRARIES = {"tensorflow": ("tensorflow", "keras", "numpy"), "openvino": ("openvino", "numpy")}


class Engine(Protocol):
    """Runs one base; may be called from several threads at once.

    Attributes:
      batch_size: images per call, exactly.
      feature_shape: of one row.
      numerics: how the features are computed, for the store.
    """

    batch_size: int
    feature_shape: tuple[int, ...]
    numerics: Numerics

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape)."""
        ...


@dataclass(frozen=True)
class EngineChoice:
    """An engine and its precision, decided: every worker of a run uses the same.

    Attributes:
      engine: ``tensorflow`` or ``openvino``.
      precision: ``float32``, ``float16``, ``bfloat16`` or ``int8``.
      model: hash of the store's quantised model for int8, else "".
    """

    engine: str = "tensorflow"
    precision: str = "float32"
    model: str = ""

    @classmethod
    def of(cls, numerics: Numerics) -> EngineChoice:
        """Returns the choice that a store was made with."""
        return cls(numerics.engine, numerics.precision, numerics.model)

    @property
    def label(self) -> str:
        """Engine and precision, as the user names them."""
        return f"{self.engine} {self.precision}"

    @property
    def numerics(self) -> Numerics:
        """How it computes here, as installed, without starting it."""
        versions = {name: version(name) for name in _LIBRARIES[self.engine]}
        return Numerics(
            self.engine, self.precision, pixels.decoder_label(), versions, model=self.model
        )


def check_batch_size(batch_size: int) -> None:
    """Refuses a batch without images.

    Raises:
      UsageError: naming the flag.
    """
    if batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, got {batch_size}")


def check_batch(batch: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses a batch of another shape or type than the compiled graph takes.

    Raises:
      ValueError: saying both.
    """
    if batch.shape != shape or batch.dtype != np.uint8:
        raise ValueError(f"the engine takes uint8 {shape}, got {batch.dtype} {batch.shape}")


def run_padded(engine: Engine, images: np.ndarray) -> np.ndarray:
    """Runs any number of images by padding the last batch with black ones.

    Args:
      engine: of a fixed batch size.
      images: uint8 (n, H, W, 3), n from 0.

    Returns:
      float32 (n, *feature_shape).
    """
    features = np.empty((len(images), *engine.feature_shape), np.float32)
    for start in range(0, len(images), engine.batch_size):
        part = images[start : start + engine.batch_size]
        missing = engine.batch_size - len(part)
        batch = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else part
        features[start : start + len(part)] = engine(batch)[: len(part)]
    return features
