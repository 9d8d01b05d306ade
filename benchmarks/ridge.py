"""An exact ridge head: time after the scan, memory, and agreement with scikit-learn.

    python -m benchmarks.ridge [--rows 100000] [--features 1280]

Rows are generated block by block from a seed, so that the fit is measured and not a disk; the time
to generate them is subtracted. The scan is the pass that computes the sums. After it come solving,
with all rows and without each of 5 folds, and judging, a second pass that counts the hits of all 50
penalties. The reference is scikit-learn's ``Ridge`` in float64 at the chosen penalty. It runs in a
process of its own, because it needs all rows in memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.tables import publish, table
from classifier.features.dataset import SIDES
from classifier.features.order import Rows
from classifier.heads.ridge.fit import gathered
from classifier.heads.ridge.passes import PenaltyErrors
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.solution import FoldStatistics, solve
from classifier.heads.spec import PENALTIES
from featurestore.cli.command import main

CLASSES = 10
BLOCK = 1024
REFERENCE = """
import sys, numpy as np
from sklearn.linear_model import Ridge
from benchmarks.ridge import CLASSES, made_rows
rows, features, alpha, file = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
x, labels = np.empty((rows, features)), np.empty(rows, np.int64)
at = 0
for block in made_rows(rows, features):
    stop = at + len(block.labels)
    x[at:stop], labels[at:stop], at = block.features, block.labels, stop
x /= np.load(file)["deviation"].astype(np.float64)
model = Ridge(alpha=alpha, solver="cholesky", copy_X=False).fit(x, np.eye(CLASSES)[labels])
np.savez(file, coef=model.coef_.T, intercept=model.intercept_)
"""


def made_rows(rows: int, features: int, seed: int = 0) -> Iterator[Rows]:
    """Yields rows of ten overlapping classes, like pooled features: correlated, none < 0."""
    centres = np.random.default_rng(seed).normal(0, 0.15, (CLASSES, features)).astype(np.float32)
    for start in range(0, rows, BLOCK):
        random = np.random.default_rng([seed, start])
        count = min(BLOCK, rows - start)
        labels = random.integers(0, CLASSES, count)
        noise = random.standard_normal((count, features), np.float32)
        shared = random.standard_normal((count, 1), np.float32)
        values = np.maximum(noise + 0.7 * shared + centres[labels] + 0.3, 0)
        yield Rows(values, labels, random.integers(0, 1 << 32, count, np.uint32))


def measure(rows: int, features: int) -> dict[str, float]:
    """Fits; returns seconds of each step, peak memory and the difference to scikit-learn."""
    settings = RidgeSettings(features, features, CLASSES, PENALTIES["ridge"], folds=5)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    for _ in made_rows(rows, features):
        pass
    seconds["making the rows"] = time.perf_counter() - started
    statistics, errors = FoldStatistics(settings), PenaltyErrors(settings)
    started = time.perf_counter()
    for block in gathered(made_rows(rows, features), settings.block_rows):
        statistics.update(block)
    seconds["sums"] = time.perf_counter() - started - seconds["making the rows"]
    started = time.perf_counter()
    solved = solve(statistics)
    seconds["solving"] = time.perf_counter() - started
    started = time.perf_counter()
    for block in gathered(made_rows(rows, features), settings.block_rows):
        errors.update(block, SIDES[0], solved)
    seconds["judging"] = time.perf_counter() - started - seconds["making the rows"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    chosen = errors.choose()
    l2 = settings.l2[chosen]
    path, standard = solved.full.only(chosen), settings.standard(sum_of(statistics))
    assert standard is not None
    deviation = standard.deviation
    accuracy = errors.hits["train"][chosen] / rows
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.npz"
        np.savez(file, deviation=deviation)
        arguments = [str(rows), str(features), repr(l2 * rows), str(file)]
        subprocess.run([sys.executable, "-c", REFERENCE, *arguments], check=True)
        with np.load(file) as reference:
            ours = path.weights[:, 0] * deviation.astype(np.float64)[:, None]
            apart = np.abs(ours - reference["coef"]).max()
            largest = np.abs(reference["coef"]).max()
    return {**seconds, "l2": l2, "accuracy": accuracy, "peak": peak, "apart": apart / largest}


def sum_of(statistics: FoldStatistics):
    """Returns the statistics of all folds."""
    first, *rest = statistics.folds
    return sum(rest, first)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    counts = {"rows": 100_000, "features": 1280}
    args = counted_parser("benchmarks.ridge", __doc__, **counts).parse_args(argv)
    found = measure(args.rows, args.features)
    rows = [[name, f"{found[name]:.1f} s"] for name in ("sums", "solving", "judging")]
    after = found["solving"] + found["judging"]
    rows += [
        ["after the scan: solving and judging", f"{after:.1f} s"],
        ["peak memory", f"{found['peak'] / 1e6:,.0f} MB"],
        ["largest relative difference to scikit-learn", f"{found['apart']:.1e}"],
        ["chosen penalty, accuracy", f"{found['l2']:.3g}, {found['accuracy']:.4f}"],
    ]
    title = f"{args.rows:,} x {args.features:,} synthetic rows, 50 penalties, 5 folds:"
    publish("benchmarks.ridge", [title, "", *table(["step", "result"], rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
