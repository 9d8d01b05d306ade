"""Opening a store: scans beside `np.load` of the same bytes, and how soon a training can start.

    python -m benchmarks.opening [--images 64] [--rows 4096] [--rounds 5] [--write FILE]

The features are those of `benchmarks.layouts`. *Cold* means that neither the array's file nor the
store's files are in the page cache. The first opening of a store makes the cache of decoded parts,
and later ones use it. Every value is touched. *Start* is what `classifier.train` does before its
first step: it surveys the rows, then loads the features of both sides. *Found by content* is what
an extraction does with images that it knows: it finds each row's features by the hash of its image,
in batches of 16 whose rows lie far apart.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.layouts import Seconds, feature_sets, timed, touch
from benchmarks.rounds import paired_ratio
from benchmarks.tables import number, publish, table
from classifier.features.dataset import load_rows
from classifier.features.division import divide
from featurestore import FeatureStore, open_store
from featurestore.cli.command import main
from featurestore.commit import Marker, commit
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.reading.cache import FOLDER
from featurestore.reuse import StoredFeatures
from featurestore.spec import StoreSpec
from featurestore.store import create_store
from featurestore.writer import PartWriter
from featurestore.writer import publish as publish_part

PART_ROWS = 1000
LOAD = "np.load"
FOUND = "found by content, shuffled"
BATCH_ROWS = 16


def write_store(
    folder: Path, spec: StoreSpec, features: np.ndarray, labels: Sequence[str] = ("china", "flower")
) -> FeatureStore:
    """Writes features into a new store, the way an extraction does.

    Args:
      folder: of the store.
      spec: of the features.
      features: (n, *shape).
      labels: of the rows in order; repeated from the first if there are fewer.
    """
    store = create_store(Storage(str(folder)), spec)
    for start in range(0, len(features), PART_ROWS):
        block = features[start : start + PART_ROWS]
        numbers = range(start, start + len(block))
        rows = [_row(number, labels[number % len(labels)]) for number in numbers]
        chunk_id = f"{start:032x}"
        with store.storage.workspace(f"tmp/{chunk_id}") as workspace:
            with PartWriter(workspace / "part", store.spec) as writer:
                writer.write(rows, block)
                part = writer.finish()
            name = publish_part(store.storage, chunk_id, part, "parts")
        ledger = Ledger(len(rows), len(rows), 0)
        commit(
            store.storage,
            Marker(chunk_id, "run", rows[0]["key"], name, part.sha256, part.size, ledger=ledger),
        )
    return store


def _row(number: int, label: str) -> dict:
    content_hash = _hash(number)
    name = f"{number:06d}.jpg"
    row = {"key": name, "uri": f"file:///{name}", "size": 1, "etag": "1", "split": None, "view": 0}
    return row | {
        "content_hash": content_hash,
        "labels": [label],
        "width": 500,
        "height": 375,
    }


def _hash(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def evict(folder: Path) -> None:
    """Asks the system to drop the files below a folder from the page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scan(folder: Path, cached: bool) -> int:
    """Opens a store and touches all its features."""
    store = open_store(str(folder))
    opened = store.with_cache() if cached else store
    return sum(touch(batch["features"]) for batch in opened.scan(["features"]))


def start(folder: Path, cached: bool) -> None:
    """Does what a training does before its first step."""
    store = open_store(str(folder))
    store = store.with_cache() if cached else store
    division = divide(store)
    for side, rows in (
        (division.train, division.stored_rows),
        (division.validation, int(division.validation_counts.sum())),
    ):
        load_rows(store, division.classes, side, rows)


def find_by_content(folder: Path, rows: int) -> None:
    """Finds every row's features by its content, in batches whose rows lie far apart."""
    stored = StoredFeatures.of(open_store(str(folder)))
    order = np.random.default_rng(0).permutation(rows)
    for start in range(0, rows, BATCH_ROWS):
        names = [(_hash(number), 0) for number in order[start : start + BATCH_ROWS]]
        assert len(stored.find(names)) == len(names)


def measure(array: Path, folder: Path, rounds: int) -> Seconds:
    """Times every way of opening once per round; returns its name -> seconds."""
    rows = len(np.load(array, mmap_mode="r"))

    def load() -> object:
        return touch(np.load(array))

    cases: dict[str, Callable[[], object]] = {
        f"{LOAD}, cold": load,
        "scan, cold": lambda: scan(folder, False),
        LOAD: load,
        "scan, parts": lambda: scan(folder, False),
        "scan, first opening": lambda: scan(folder, True),
        "scan, second opening": lambda: scan(folder, True),
        "start, no cache": lambda: start(folder, False),
        "start, first": lambda: start(folder, True),
        "start, second": lambda: start(folder, True),
        FOUND: lambda: find_by_content(folder, rows),
    }
    seconds: Seconds = {name: [] for name in cases}
    for _ in range(rounds):
        for name, work in cases.items():
            if "first" in name:
                shutil.rmtree(folder / FOLDER, ignore_errors=True)
            if "cold" in name:
                evict(folder.parent)
            seconds[name].append(timed(work))
    return seconds


def report(seconds: Seconds, size: int) -> list[str]:
    """Returns a Markdown table of medians; ratios are of rates within a round."""
    rows = []
    for name, values in seconds.items():
        median = statistics.median(values)
        base = f"{LOAD}, cold" if "cold" in name else LOAD
        ratio = paired_ratio(seconds[base], values)
        cells = ["-", "-"] if "start" in name else [number(size / 1e6 / median), number(ratio)]
        rows.append([name, number(median, " s"), *cells])
    return table(["opening", "time", "MB/s", "x np.load"], rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    counts = {"images": 64, "rows": 4096, "rounds": 5}
    args = counted_parser("benchmarks.opening", __doc__, **counts).parse_args(argv)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for base, heading, features in feature_sets(args.images, args.rows, folder):
            work = folder / f"{base}-opening"
            work.mkdir()
            np.save(work / "features.npy", features)
            like = open_store(str(folder / base))
            write_store(work / "store", like.spec, features.astype(np.float32))
            seconds = measure(work / "features.npy", work / "store", args.rounds)
            lines += [heading, "", *report(seconds, features.nbytes), ""]
    publish("benchmarks.opening", lines[:-1], args.write)
    return 0


if __name__ == "__main__":
    main(run)
