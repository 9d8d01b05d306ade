"""The interface of all engines: a function from a batch of pixels to features."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import numpy as np

from classifier.pixels import decoder as pixels
from featurestore.errors import UsageError
from featurestore.numerics import Numerics
from featurestore.spec import PIXEL_DTYPE

PRECISIONS = ("float32", "float16", "bfloat16", "int8")
# Engine -> the precisions that it has, on whatever machine.
COMPUTED = {
    "tensorflow": ("float32", "float16", "bfloat16"),
    "openvino": PRECISIONS,
    "onnxruntime": ("float32",),
}
ENGINES = tuple(COMPUTED)
_LIBRARIES = {
    "tensorflow": ("tensorflow", "keras", "numpy"),
    "openvino": ("openvino", "numpy"),
    "onnxruntime": ("onnxruntime", "numpy"),
    "identity": ("numpy",),
}
# Distributions of one library, which install the same module.
_VARIANTS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime")}


class Engine(Protocol):
    """Runs one base; may be called from several threads at once.

    Attributes:
      batch_size: the exact number of images per call.
      feature_shape: of one row.
      numerics: how the features are computed, for the store.
    """

    batch_size: int
    feature_shape: tuple[int, ...]
    numerics: Numerics

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Maps uint8 (batch_size, H, W, 3) to float32 (batch_size, *feature_shape).

        The engine of a store of pixels gives uint8.
        """
        ...


@dataclass(frozen=True)
class EngineChoice:
    """The engine and precision that every worker of a run uses.

    Attributes:
      engine: ``tensorflow``, ``openvino`` or ``onnxruntime``, or ``identity`` for pixels.
      precision: ``float32``, ``float16``, ``bfloat16`` or ``int8``, or ``uint8`` for pixels.
      model: hash of the store's quantised model for int8, otherwise "".
    """

    engine: str = "tensorflow"
    precision: str = "float32"
    model: str = ""

    @classmethod
    def of(cls, numerics: Numerics) -> EngineChoice:
        """Returns the engine and precision that made a store."""
        return cls(numerics.engine, numerics.precision, numerics.model)

    @property
    def label(self) -> str:
        """Engine and precision, in the user's words."""
        return f"{self.engine} {self.precision}"

    @property
    def numerics(self) -> Numerics:
        """The numerics of the installed engine; does not start it."""
        versions = dict(_installed(name) for name in _LIBRARIES[self.engine])
        return Numerics(
            self.engine, self.precision, pixels.decoder_label(), versions, model=self.model
        )


def _installed(library: str) -> tuple[str, str]:
    """Returns the name and the version of the distribution of a library that is installed."""
    *others, last = _VARIANTS.get(library, (library,))
    for name in others:
        with contextlib.suppress(PackageNotFoundError):
            return name, version(name)
    return last, version(last)


# Of pixels that are stored as they are, see `classifier.engines.identity`.
IDENTITY = EngineChoice("identity", PIXEL_DTYPE)


def check_batch_size(batch_size: int) -> None:
    """Refuses a batch without images.

    Raises:
      UsageError: naming the flag.
    """
    if batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, got {batch_size}")


def check_batch(batch: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses a batch that differs in shape or type from the compiled graph's input.

    Raises:
      ValueError: naming both.
    """
    if batch.shape != shape or batch.dtype != np.uint8:
        raise ValueError(f"the engine takes uint8 {shape}, got {batch.dtype} {batch.shape}")


def run_padded(engine: Engine, images: np.ndarray) -> np.ndarray:
    """Runs any number of images; pads the last batch with black ones.

    Args:
      engine: of a fixed batch size.
      images: uint8 (n, H, W, 3), n from 0.

    Returns:
      float32 (n, *feature_shape); uint8 pixels from the engine that keeps them.
    """
    parts = []
    for start in range(0, len(images), engine.batch_size):
        part = images[start : start + engine.batch_size]
        missing = engine.batch_size - len(part)
        batch = np.pad(part, ((0, missing), *[(0, 0)] * (part.ndim - 1))) if missing else part
        parts.append(engine(batch)[: len(part)])
    if not parts:
        return np.empty((0, *engine.feature_shape), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def relative_distances(rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns each row's L2 distance from `truth`, divided by the L2 norm of `truth`.

    Args:
      rows: float (n, *feature_shape).
      truth: the same shape, of any float type.

    Returns:
      float64 (n,).

    Example:
      >>> relative_distances(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0]]))
      array([0.5])
    """
    ours, theirs = (array.reshape(len(array), -1).astype(np.float64) for array in (rows, truth))
    norms = np.maximum(np.linalg.norm(theirs, axis=1), 1e-12)
    return np.linalg.norm(ours - theirs, axis=1) / norms
