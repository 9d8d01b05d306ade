"""Stores of made-up features with labels."""

from __future__ import annotations

import hashlib

import numpy as np

from featurestore import BaseSpec, Numerics, PixelSpec, StoreSpec, layout
from featurestore.commit import Marker, commit
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.store import create_store
from featurestore.taps import cut_hashes
from featurestore.writer import PartWriter, publish


def spec_of(feature_shape, **changes):
    base = BaseSpec("Tiny", "random", "ab" * 16, "top", "none", "tf")
    if len(feature_shape) == 1:
        base = BaseSpec("Tiny", "random", "ab" * 16, "top", "avg", "tf")
    numerics = Numerics("tensorflow", "float32", "test")
    fields = {"base": base, "pixels": PixelSpec((8, 8)), "dtype": "float32", "numerics": numerics}
    return StoreSpec(feature_shape=tuple(feature_shape), **{**fields, **changes})


def hash_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def make_store(folder, features, labels, splits=None, *, spec=None, rows_per_part=40, **columns):
    """Commits rows through the store's own writer; `columns` overrides by row."""
    spec = spec or spec_of(features.shape[1:])
    storage = Storage(str(folder))
    store = create_store(storage, spec)
    for name in (spec.base.weights_hash, *cut_hashes(spec.base)):
        storage.write(layout.model_file(name), b"a base")
    storage.write(layout.PROBES, b"probe images")
    rows = [
        {
            "key": f"{number:05d}.png",
            "uri": f"file:///nowhere/{number:05d}.png",
            "size": 1,
            "etag": "",
            "content_hash": hash_of(number),
            "labels": [label] if isinstance(label, str) else list(label),
            "split": splits[number] if splits else None,
            "view": 0,
            "width": 8,
            "height": 8,
            **{name: values[number] for name, values in columns.items()},
        }
        for number, label in enumerate(labels)
    ]
    for start in range(0, len(rows), rows_per_part):
        part = rows[start : start + rows_per_part]
        chunk = layout.chunk_id((row["key"], 1, str(row["view"])) for row in part)
        with storage.workspace(f"tmp/{chunk}") as work:
            with PartWriter(work / "part.parquet", spec) as writer:
                writer.write(part, features[start : start + rows_per_part])
                written = writer.finish()
            name = publish(storage, chunk, written, "parts")
        ledger = Ledger(len(part), len(part))
        commit(storage, Marker(chunk, "run", part[0]["key"], name, written.sha256, ledger=ledger))
    return store


def numbered(count, channels=3):
    """Features that tell which row they are."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], channels, axis=1)


def clusters(count, classes, channels=12, seed=0):
    """Features that a linear head can tell apart, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.normal(0, 2, size=(classes, channels))
    features = (centres[labels] + rng.normal(0, 1, size=(count, channels))).astype(np.float32)
    return features, [f"class {number}" for number in labels]


def row_numbers(batches):
    return [int(value) for rows in batches for value in rows.features[:, 0]]
