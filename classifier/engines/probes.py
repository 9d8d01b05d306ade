"""Probe images of a store, which show whether other numerics reproduce its features.

A store keeps the pixels and features of a few of its first images. Another machine, library release
or engine may add rows only if its features agree within the store's tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from classifier.engines.engine import Engine, relative_distances, run_padded
from featurestore import layout
from featurestore.errors import CorruptStore, SpecMismatch
from featurestore.fields import Tap
from featurestore.io.storage import Storage, parquet_bytes
from featurestore.schema import FEATURES
from featurestore.spec import StoreSpec
from featurestore.store import FeatureStore
from featurestore.taps import divided, joined

PROBES = 8


def synthetic_images(count: int, image_size: tuple[int, int]) -> np.ndarray:
    """Draws smooth random images, for an input whose first images are unreadable.

    Args:
      count: of images.
      image_size: (height, width) in pixels.

    Returns:
      uint8 (count, height, width, 3).
    """
    random = np.random.default_rng(0)
    height, width = image_size
    coarse = random.integers(0, 256, (count, 8, 8, 3), np.uint8)
    rows = np.minimum(np.arange(height) * 8 // height, 7)
    columns = np.minimum(np.arange(width) * 8 // width, 7)
    return coarse[:, rows][:, :, columns]


def _columns(taps: Sequence[Tap]) -> list[str]:
    """Returns the columns of features: one, or one for each tap, so that runs of a tap find it."""
    return [f"{FEATURES}:{tap.name}" for tap in taps] or [FEATURES]


def write_probes(
    storage: Storage, engine: Engine, pixels: np.ndarray, taps: Sequence[Tap] = ()
) -> bool:
    """Stores probe images with their features, unless the store already has some.

    Args:
      storage: of the store.
      engine: of the run that creates the store.
      pixels: uint8 (n, H, W, 3).
      taps: of the base, whose features are stored one by one.

    Returns:
      Whether they were stored; another job may have been faster.
    """
    rows = divided(taps, run_padded(engine, pixels))
    columns = {"pixels": [image.tobytes() for image in pixels]}
    for name, features in zip(_columns(taps), rows, strict=True):
        columns[name] = [row.astype(np.float32).tobytes() for row in features]
    table = pa.table(columns)
    return storage.create(layout.PROBES, parquet_bytes([table]))


def read_probes(storage: Storage, spec: StoreSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probe images, uint8 (n, H, W, 3), and their features, float32 (n, values).

    Args:
      storage: of a store, or of a run with a copy of the store's probes.
      spec: of the features.

    Raises:
      CorruptStore: when they are missing or damaged.
    """
    try:
        with storage.open_parquet(layout.PROBES) as file:
            table = file.read()
        # Writable, because an engine may share the memory of a batch.
        pixels = np.frombuffer(bytearray().join(table["pixels"].to_pylist()), np.uint8)
        pixels = pixels.reshape(-1, *spec.pixels.image_size, 3)
        names = _columns(spec.base.taps)
        if names == [FEATURES] and FEATURES not in table.column_names:
            # Of one tap of a store of several.
            names = [f"{FEATURES}:{spec.base.tap}"]
        stored = [np.frombuffer(b"".join(table[name].to_pylist()), np.float32) for name in names]
        return pixels, joined([values.reshape(len(pixels), -1) for values in stored])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise CorruptStore(
            f"{storage.public_url}/{layout.PROBES} cannot be read ({error}); restore it from a "
            "backup, or make the store or run again"
        ) from error


def largest_difference(storage: Storage, spec: StoreSpec, engine: Engine) -> float:
    """Returns the largest relative L2 distance of `engine`'s rows from the stored ones.

    Args:
      storage: of a store, or of a run with a copy of the store's probes.
      spec: of the features.
      engine: of the same base.

    Raises:
      CorruptStore: when the probe images are missing or damaged.
    """
    pixels, stored = read_probes(storage, spec)
    taps, rows = spec.base.taps, run_padded(engine, pixels).reshape(stored.shape)
    pairs = zip(divided(taps, rows), divided(taps, stored), strict=True)
    return max(float(relative_distances(*pair).max()) for pair in pairs)


def require_numerics(store: FeatureStore, engine: Engine) -> float | None:
    """Refuses an engine whose numerics differ from the store's beyond its tolerance.

    Returns:
      The measured difference, or None when the numerics are identical.

    Raises:
      SpecMismatch: naming the difference.
    """
    if engine.numerics.hash == store.spec.numerics.hash:
        return None
    difference = largest_difference(store.storage, store.spec, engine)
    if not difference <= store.spec.tolerance:
        ours, theirs = store.spec.numerics, engine.numerics
        raise SpecMismatch(
            f"this machine's numerics ({theirs.engine} {theirs.precision}, {theirs.decoder}) give "
            f"features {difference:.2g} away from those of the store at {store.url} "
            f"({ours.engine} {ours.precision}, {ours.decoder}), more than its tolerance of "
            f"{store.spec.tolerance:g}; use the store's engine and precision, or another --output"
        )
    return difference
