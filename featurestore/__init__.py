"""Hoarfrost's feature store: open, describe, scan and check stored features.

It needs only NumPy, PyArrow and fsspec, and never imports TensorFlow or Apache Beam.
"""

from featurestore.cli import startup as _startup  # noqa: F401
from featurestore.errors import HoarfrostError, RunFailed, SpecMismatch, UsageError
from featurestore.numerics import Numerics
from featurestore.spec import BaseSpec, PixelSpec, StoreSpec
from featurestore.store import FeatureStore, open_store

__version__ = "0.2.0"

__all__ = [
    "BaseSpec",
    "FeatureStore",
    "HoarfrostError",
    "Numerics",
    "PixelSpec",
    "RunFailed",
    "SpecMismatch",
    "StoreSpec",
    "UsageError",
    "__version__",
    "open_store",
]
