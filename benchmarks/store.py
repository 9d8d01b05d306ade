"""Writing and scanning a store against `np.save` and `np.load` of the same bytes.

    python -m benchmarks.store [--images 4000] [--rounds 5]

A store of float16 maps (5, 5, 512) that an extraction made. All files are in the page cache, also
NumPy's; a reader has read when it has touched every page. The first opening finds no cache beside
the store; the second finds what the first left.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.bases import PATCHES, write_base_apart
from benchmarks.images import write_copies, write_photographs
from benchmarks.processes import module, run_command
from benchmarks.rounds import paired_ratio
from benchmarks.tables import number, publish, table
from featurestore import FeatureStore, open_store
from featurestore.command import main
from featurestore.schema import META_FIELDS
from featurestore.writer import PartWriter

DISTINCT = 500  # photographs; the rest are copies
BATCH = 16
CACHE = "cache"
ARRAY = "features.npy"
SAVE, LOAD = "np.save", "np.load"
PART = "a part, with keys, labels and checksum"


def patches_store(folder: Path, images: int, pooling: str = "none") -> FeatureStore:
    """Extracts a store of `PATCHES` from real photographs.

    Args:
      folder: for everything that is written.
      images: rows.
      pooling: ``none`` for float16 (5, 5, 512), ``avg`` for float32 (512,).
    """
    classes = folder / "photos"
    if not classes.exists():
        originals = write_photographs(folder / "originals", min(images, DISTINCT))
        write_copies(originals, classes, images)
    base_file = write_base_apart(PATCHES, folder)
    flags = [*PATCHES.flags(base_file), "--pooling", pooling]
    command = ["--input", "photos", "--output", f"store-{pooling}", *flags]
    run_command(module("pipelines.extract", *command), folder, 900)
    return open_store(str(folder / f"store-{pooling}"))


@dataclass(frozen=True)
class Way:
    """One way of writing or reading.

    Attributes:
      name: in the table.
      work: what is timed.
      prepare: done before it, and not timed.
    """

    name: str
    work: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None


def writing(store: FeatureStore, folder: Path) -> list[Way]:
    """Returns the ways of writing a store's rows again: by NumPy, and as a part."""
    columns = store.load([field.name for field in META_FIELDS])
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    features = store.load(["features"])["features"]
    computed = features.astype(np.float32)
    array, part = folder / ARRAY, folder / "part.parquet"

    def write_part() -> None:
        with PartWriter(part, store.spec) as writer:
            for start in range(0, len(rows), BATCH):
                writer.write(rows[start : start + BATCH], computed[start : start + BATCH])
            writer.finish()

    return [
        Way(SAVE, lambda: np.save(array, features), lambda: array.unlink(missing_ok=True)),
        Way(PART, write_part, lambda: part.unlink(missing_ok=True)),
    ]


def reading(store: FeatureStore, folder: Path) -> list[Way]:
    """Returns the ways of reading a store's features; NumPy's needs what was saved before."""
    url = str(store.storage.url)

    def scan() -> None:
        _touch(batch["features"] for batch in open_store(url).scan(["features"]))

    def load() -> None:
        _touch([open_store(url).load(["features"])["features"]])

    def forget() -> None:
        shutil.rmtree(Path(url) / CACHE, ignore_errors=True)

    ways = [Way(LOAD, lambda: _touch([np.load(folder / ARRAY)]))]
    for name, work in (("store.scan", scan), ("store.load", load)):
        ways += [Way(f"{name}, first opening", work, forget)]
        ways += [Way(f"{name}, second opening", work)]
    return ways


def measure(ways: Sequence[Way], rounds: int) -> dict[str, list[float]]:
    """Times every way once a round, in turn: way -> seconds of each round."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            way.prepare()
            started = time.perf_counter()
            way.work()
            seconds[way.name].append(time.perf_counter() - started)
    return seconds


def _touch(arrays: Iterable[np.ndarray]) -> int:
    """Reads a byte of every page of arrays, so that a mapped file counts as read."""
    return sum(int(array.reshape(-1).view(np.uint8)[::4096].sum()) for array in arrays)


def report(seconds: dict[str, list[float]], size: int, images: int) -> list[str]:
    """Lays out speeds, and ratios to NumPy's way of the same direction."""
    rows = []
    for name, taken in seconds.items():
        against = SAVE if name in (SAVE, PART) else LOAD
        ratio = paired_ratio(seconds[against], taken)
        middle = float(np.median(taken))
        speeds = [number(size / 2**20 / middle), number(images / middle)]
        rows.append([name, *speeds, f"{number(ratio)} of {against}"])
    lines = [f"{images:,} maps of (5, 5, 512) float16, {size / 2**20:,.0f} MiB:", ""]
    return lines + table(["way", "MiB/s", "rows/s", "speed"], rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.store", __doc__, images=PATCHES.images, rounds=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        store = patches_store(folder, args.images)
        seconds = measure([*writing(store, folder), *reading(store, folder)], args.rounds)
        size = args.images * store.spec.feature_bytes
    publish("benchmarks.store", report(seconds, size, args.images), args.write)
    return 0


if __name__ == "__main__":
    main(run)
