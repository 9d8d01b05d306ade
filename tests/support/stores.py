"""Small real stores, chunk by chunk."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featurestore import layout
from featurestore.commit import Marker, commit, data_files
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.spec import BaseSpec, Numerics, PixelSpec, StoreSpec
from featurestore.store import FeatureStore, create_store
from featurestore.writer import PartWriter, publish, write_quarantine
from support.commands import ROOT


def make_spec(
    feature_shape: tuple[int, ...] = (8,), dtype: str = "float32", **changes
) -> StoreSpec:
    """Builds a valid spec."""
    base = BaseSpec("VGG16", "none", "0" * 32, "block5_pool", "none", "caffe", "r")
    fields = {
        "base": base,
        "pixels": PixelSpec((32, 32)),
        "feature_shape": feature_shape,
        "dtype": dtype,
        "numerics": Numerics("tensorflow", "float32", "test"),
    }
    return StoreSpec(**{**fields, **changes})


def make_rows(count: int, start: int = 0, **changes) -> list[dict]:
    """Builds rows with distinct keys and contents, classes 0 to 2, splits in turn."""
    splits = ("train", "validation", "test", None)
    return [
        {
            "key": f"{index:05d}.png",
            "uri": f"file:///images/{index:05d}.png",
            "size": 10 + index,
            "etag": "1",
            "content_hash": f"{index:064x}",
            "labels": [str(index % 3)],
            "split": splits[index % 4],
            "view": 0,
            "width": 8,
            "height": 8,
            **changes,
        }
        for index in range(start, start + count)
    ]


def add_chunk(
    store: FeatureStore,
    rows: Sequence[dict],
    features: np.ndarray,
    bad: Sequence[dict] = (),
    **changes,
) -> Marker:
    """Writes and commits a chunk the way an extraction does, but for `changes` of its marker."""
    chunk_id = changes.get("chunk_id", f"{len(store.markers()):032x}")
    storage = store.storage
    images = sum(row["view"] == 0 for row in rows)
    with storage.workspace(f"tmp/test-{chunk_id}") as folder:
        with PartWriter(folder / "part", store.spec) as writer:
            writer.write(rows, features)
            part = writer.finish()
        part_name = publish(storage, chunk_id, part, "parts") if rows else ""
        bad_name = bad_sha256 = ""
        if bad:
            written = write_quarantine(folder / "bad", bad)
            bad_name = publish(storage, chunk_id, written, "quarantine")
            bad_sha256 = written.sha256
        marker = Marker(
            chunk_id=chunk_id,
            run_id="run",
            first_key=rows[0]["key"] if rows else "",
            part=part_name,
            part_sha256=part.sha256 if rows else "",
            part_bytes=part.size if rows else 0,
            quarantine=bad_name,
            quarantine_sha256=bad_sha256,
            ledger=Ledger(images + len(bad), images, len(bad)),
            augmented=len(rows) - images,
            numerics=vars(store.spec.numerics),
        )
        return commit(storage, dataclasses.replace(marker, **changes))


def make_store(url: str | Path, spec: StoreSpec | None = None, **options) -> FeatureStore:
    """Creates an empty store."""
    return create_store(Storage(str(url), options), spec or make_spec())


def make_trainable(folder: Path, classes: Sequence[str]) -> None:
    """Creates a store of 24 rows whose class changes every four rows, fit to train on."""
    store = make_store(folder)
    rows = make_rows(24)
    for number, row in enumerate(rows):
        row["labels"] = [classes[number // 4 % len(classes)]]
    add_chunk(store, rows, np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32))
    # What a run copies; nothing here computes with it.
    store.storage.write(layout.model_files(store.spec.base.weights_hash, "")[0], b"a base")
    store.storage.write(layout.PROBES, b"probes")


# Anonymous memory alone: mapped files, such as the code of libraries, can be dropped at any time.
_GROWTH = """
import sys, threading
from featurestore import open_store
from featurestore.checking.verify import verify_storage

def held():
    with open("/proc/self/status") as status:
        return int(status.read().partition("RssAnon:")[2].split()[0])

def watch():
    while not done.wait(0.002):
        peaks.append(held())

store = open_store(sys.argv[1])
next(store.scan())
done, before = threading.Event(), held()
peaks = [before]
threading.Thread(target=watch, daemon=True).start()
STATEMENT
done.set()
print(max(*peaks, held()) - before)
"""


def memory_growth(store: FeatureStore, statement: str) -> int:
    """Returns the bytes by which a statement on `store` raises a process's anonymous memory.

    The memory is sampled while the statement runs. It is that of a new process alone, whatever the
    tests before it have held.
    """
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH.replace("STATEMENT", statement), store.storage.path("")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return 1024 * int(done.stdout)


def find_orphans(storage: Storage, markers: Mapping[str, Marker]) -> set[str]:
    """Returns the paths of the data files that none of `markers` names."""
    named = {path for each in markers.values() for path in each.files}
    return {file.name for file in data_files(storage)} - named
