"""What each engine and precision costs in accuracy, against TensorFlow in float32.

    python -m benchmarks.precisions [--bases VGG16,MobileNetV2]

Real weights run on real images: crops of photographs, and scikit-learn's 1,797 digits with their
splits. The features are stored in float32 here, so that rounding in the store does not count. A
precision that ``pipelines.extract`` refuses because it is inexact is measured too, if it can be
forced.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.arguments import counted_parser, positive
from benchmarks.bases import BASES, Base, chosen, write_base_apart
from benchmarks.contenders import VARIANTS, Bench, engine_flags, has_engines
from benchmarks.images import write_varied
from benchmarks.processes import module, run_command
from benchmarks.rounds import NotRun
from benchmarks.tables import publish, table
from featurestore import open_store
from featurestore.cli.command import main, say
from pipelines.planning.digits import write_digits

REFERENCE = ("tensorflow", "float32")
FORCE = "--allow_inexact"


@dataclass(frozen=True)
class Agreement:
    """How close rows are to those of the reference.

    Attributes:
      least: the least cosine of a row with its reference row.
      median: the median of those cosines.
      pooled_error: median relative L2 distance of rows averaged over the map.
    """

    least: float
    median: float
    pooled_error: float


def agreement(features: np.ndarray, reference: np.ndarray) -> Agreement:
    """Compares features with those of the reference, row by row.

    Args:
      features: float (n, ...), n at least 1.
      reference: of the same shape.
    """
    flat, true = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (features, reference))
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(true, axis=1)
    cosines = (flat * true).sum(axis=1) / np.maximum(lengths, 1e-12)
    pooled, true = (_pooled(rows) for rows in (features, reference))
    errors = np.linalg.norm(pooled - true, axis=1) / np.maximum(np.linalg.norm(true, axis=1), 1e-12)
    return Agreement(float(cosines.min()), float(np.median(cosines)), float(np.median(errors)))


def _pooled(features: np.ndarray) -> np.ndarray:
    places = tuple(range(1, features.ndim - 1))
    return features.mean(axis=places, dtype=np.float64)


def stored_features(store: Path) -> np.ndarray:
    """Returns a store's features, float32 (n, ...), ordered by key."""
    columns = open_store(str(store)).load(["key", "features"])
    return columns["features"][np.argsort(columns["key"])]


class Measurement:
    """Extracts into a store with every engine and precision, and compares the stores.

    Args:
      bench: what the contenders share; its folder holds ``photographs`` and ``digits``.
      limit_per_class: most digits of each split and class, 0 for all.
    """

    def __init__(self, bench: Bench, limit_per_class: int) -> None:
        self._bench, self._limit = bench, limit_per_class
        told = run_command(module("pipelines.extract", "--help"), bench.folder, 60).out
        self._force = [FORCE] if FORCE in told else []

    def row(self, engine: str, precision: str) -> list[str]:
        """Returns the row of an engine and precision; if it cannot run, the row says why."""
        name = f"{engine} {precision}"
        try:
            stores = [self._extract(engine, precision, kind) for kind in ("photographs", "digits")]
            accuracy = self._accuracy(stores[1])
        except NotRun as reason:
            return [name, f"not run: {reason}", *[""] * 5]
        cells = []
        for store in stores:
            true = self._bench.folder / _store_name(*REFERENCE, store.name.split("-")[-1])
            found = agreement(stored_features(store), stored_features(true))
            cells.append(f"{found.least:.5f} / {found.median:.5f}")
            cells.append(f"{found.pooled_error:.3%}")
        best = self._accuracy(self._bench.folder / _store_name(*REFERENCE, "digits"))
        points = 100 * (accuracy - best)
        return [name, *cells, f"{accuracy:.4f}", f"{points:+.2f}"]

    def _extract(self, engine: str, precision: str, kind: str) -> Path:
        flags = engine_flags(self._bench, engine, precision)
        store = self._bench.folder / _store_name(engine, precision, kind)
        force = self._force if precision == "int8" else []
        limit = ["--limit_per_class", self._limit] if self._limit and kind == "digits" else []
        base = self._bench.base.flags(self._bench.base_file)
        command = module(
            "pipelines.extract",
            *("--input", kind, "--output", store.name, "--dtype", "float32"),
            *(*base, *flags, *force, *limit),
        )
        run_command(command, self._bench.folder, self._bench.timeout)
        found = json.loads((store / "summary.json").read_text())["numerics"]
        if [(record["engine"], record["precision"]) for record in found] != [(engine, precision)]:
            raise NotRun(f"it ran as {found}")
        return store

    def _accuracy(self, store: Path) -> float:
        """Trains a linear head on the digits and returns its test accuracy, a fraction."""
        folder, timeout, heads = self._bench.folder, self._bench.timeout, f"heads-{store.name}"
        if not (folder / heads).exists():
            train = ["--store", store.name, "--output", heads, "--head", "linear"]
            run_command(module("classifier.train", *train), folder, timeout)
        test = ["--run", heads, "--store", store.name, "--split", "test", "--json"]
        told = run_command(module("classifier.evaluate", *test), folder, timeout).out
        return json.loads(told)["accuracy"]


def _store_name(engine: str, precision: str, kind: str) -> str:
    return f"store-{engine}-{precision}-{kind}"


def measure(base: Base, photographs: int, limit_per_class: int, timeout: float) -> list[str]:
    """Returns the table of one base.

    Args:
      base: the base to run.
      photographs: number of crops to compare on.
      limit_per_class: most digits of each split and class, 0 for all.
      timeout: seconds that one command may take.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_varied(folder / "photographs", photographs)
        write_digits(folder / "digits")
        file = write_base_apart(base, folder)
        bench = Bench(folder, folder, base, file, 0, timeout, has_engines(folder))
        measurement = Measurement(bench, limit_per_class)
        variants = [REFERENCE, *(v for v in VARIANTS if v != REFERENCE and "auto" not in v)]
        rows = []
        for variant in variants:
            rows.append(measurement.row(*variant))
            say(f"  {' '.join(rows[-1])}", to_stderr=True)
    header = [
        *("numerics", "photographs: cosine, least / median", "pooled error"),
        *("digits: cosine, least / median", "pooled error", "linear head", "points"),
    ]
    return table(header, rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    counts = {"photographs": 64, "timeout": 1200}
    parser = counted_parser("benchmarks.precisions", __doc__, **counts)
    add = parser.add_argument
    add("--bases", default=",".join(BASES), help="bases, separated by commas (default %(default)s)")
    add(
        "--limit_per_class",
        type=positive,
        metavar="N",
        help="digits of each split and class (default all)",
    )
    args = parser.parse_args(argv)
    for base in chosen(args.bases):
        lines = [f"{base.title}, against TensorFlow float32:", ""]
        lines += measure(base, args.photographs, args.limit_per_class or 0, args.timeout)
        publish(f"benchmarks.precisions --bases {base.name}", lines, args.write)
    return 0


if __name__ == "__main__":
    main(run)
