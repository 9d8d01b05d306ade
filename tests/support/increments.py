"""A store of two runs of small commits, the second of which replaced rows of the first."""

import numpy as np

from featurestore.commit import write_manifest
from featurestore.labels.overlay import write_overlay
from support.stores import add_chunk, make_rows, make_store

BAD = {"uri": "file:///b", "size": 3, "etag": "1", "kind": "empty", "message": "no bytes"}


def build(url, spec=None, chunks=6):
    """Two runs of small commits: the second replaces a row and a bad image of the first."""
    store = make_store(url, spec)
    storage, shape = store.storage, store.spec.feature_shape
    for path in (f"model/{store.spec.base.weights_hash}.keras", "model/probes.parquet"):
        storage.write(path, b"stands for the base")
    rng = np.random.default_rng(0)
    for number in range(chunks):
        bad = [{**BAD, "key": f"bad{number}.png"}] if number % 2 else []
        features = rng.normal(size=(5, *shape)).astype(np.float32)
        run_id = f"20260101T00000{number % 2}000000Z-a"
        changes = {"supersedes": ("00000.png", "bad1.png")} if number == 5 else {}
        add_chunk(store, make_rows(5, 5 * number), features, bad, run_id=run_id, **changes)
    markers = list(store.markers().values())
    write_manifest(storage, "20260101T000001000000Z-a", markers)
    write_overlay(storage, iter([("00007.png", ["relabelled"], "test")]))
    return store


def visible(store):
    """All that a reader sees: key -> (labels, split, run-independent columns, features)."""
    rows = {}
    columns = ("key", "uri", "labels", "split", "view", "content_hash", "features")
    for batch in store.scan(columns):
        for values in zip(*(batch[name] for name in columns), strict=True):
            key, *rest, features = values
            assert key not in rows
            rows[key] = (*map(str, rest), features.tobytes())
    return rows
