"""Ridge, logistic and nearest-neighbour heads against scikit-learn on the same standardised rows.

    python -m benchmarks.exact [--rows 2000] [--features 1280] [--rounds 3]

A fifth of the rows validates. Our time is that of the fit that `classifier.train` calls, from rows
in memory to the head with its figures on both sides; scikit-learn's is that of `fit` and of `score`
on the validation rows. Both run in one process, in turn, and the ratios are medians within rounds.

Logistic heads choose among `PENALTIES`; scikit-learn fits each of them from the start, with L-BFGS
and the tolerance with which its loss ends where ours does. It gets one BLAS thread, because with
two a step of L-BFGS took 25 times as long on our busy machine. "Loss above the least" is the
relative distance of the penalised training loss from the lower of the two, at the worst penalty.
Ridge heads choose among 50 penalties, by 5 folds; scikit-learn's `RidgeClassifierCV` does so by
leave-one-out. A nearest-neighbour head has no fit to speak of: the figures are those of answering.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.arguments import counted_parser
from benchmarks.machine import installed
from benchmarks.rounds import NotRun, paired_ratio
from benchmarks.stacked import Case, made_store
from benchmarks.tables import NOTHING, number, publish, table
from classifier.features.division import divide
from classifier.features.order import Rows
from classifier.heads.data import TrainingData, prepare_data
from classifier.heads.exact import train_exact
from classifier.heads.head import standardised
from classifier.heads.options import TrainOptions
from classifier.heads.probabilities import log_probabilities
from classifier.heads.spec import PENALTIES as ALL
from classifier.heads.spec import parse_head
from featurestore.cli.command import main, quiet_libraries, say

PENALTIES = (1e-2, 1e-3, 1e-4)
NEIGHBOURS = 20
# With a hundred times as much, the default, its loss ends 1e-3 above ours.
TOLERANCE = 1e-6


class Timed(NamedTuple):
    """One fit.

    Attributes:
      seconds: it took.
      processor: seconds of processor time.
      accuracy: on the validation rows.
      losses: penalised training loss by penalty; empty for others than logistic heads.
    """

    seconds: float
    processor: float
    accuracy: float
    losses: Sequence[float] = ()


@dataclass(frozen=True)
class Sides:
    """Standardised rows: float32 (n, d) features and int labels of both sides."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray

    @classmethod
    def of(cls, data: TrainingData) -> Sides:
        """Joins the rows of a run."""
        train, held = (Rows.joined(list(data.rows(side))) for side in ("train", "validation"))
        scaled = [standardised(rows, data.standard) for rows in (train, held)]
        return cls(scaled[0], train.labels, scaled[1], held.labels)

    def loss(self, kernel: np.ndarray, bias: np.ndarray, l2: float) -> float:
        """Returns the penalised mean cross entropy of the training rows."""
        logs = log_probabilities(self.x.astype(np.float64) @ kernel + bias)
        own = logs[np.arange(len(self.y)), self.y]
        return float(l2 * np.square(kernel).sum() - own.mean())


def ours(head: str, data: TrainingData, sides: Sides) -> Timed:
    """Fits a head as the command does."""
    options = TrainOptions(heads=(parse_head(head),))
    spec = options.heads[0]
    clocks = time.perf_counter(), time.process_time()
    fitted = train_exact(spec, data, options)
    spent = _since(clocks)
    losses: list[float] = []
    if spec.kind == "logistic":
        for penalty in PENALTIES:
            alone = parse_head(f"logistic:l2={penalty}") if len(spec.l2) > 1 else spec
            network = train_exact(alone, data, options).model
            kernel, bias = network.weights["logits"]
            losses.append(sides.loss(kernel, bias, penalty))
    return Timed(*spent, fitted.best["val_accuracy"], losses)


def _since(clocks: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - clocks[0], time.process_time() - clocks[1]


def scikit_logistic(sides: Sides) -> Timed:
    """Fits every penalty; the accuracy is that of the one with the least validation loss."""
    from sklearn.linear_model import LogisticRegression

    clocks = time.perf_counter(), time.process_time()
    with threadpool_limits(1, "blas"):
        models = [
            LogisticRegression(
                C=1 / (2 * penalty * len(sides.y)), tol=TOLERANCE, max_iter=2000
            ).fit(sides.x, sides.y)
            for penalty in PENALTIES
        ]
    held = [-model.predict_log_proba(sides.held_x) for model in models]
    places = [each[np.arange(len(sides.held_y)), sides.held_y].mean() for each in held]
    best = models[int(np.argmin(places))]
    accuracy = best.score(sides.held_x, sides.held_y)
    spent = _since(clocks)
    pairs = zip(models, PENALTIES, strict=True)
    losses = [sides.loss(model.coef_.T, model.intercept_, penalty) for model, penalty in pairs]
    return Timed(*spent, float(accuracy), losses)


def scikit(model: Any, sides: Sides) -> Timed:
    """Fits and scores a classifier."""
    clocks = time.perf_counter(), time.process_time()
    accuracy = model.fit(sides.x, sides.y).score(sides.held_x, sides.held_y)
    return Timed(*_since(clocks), float(accuracy))


def ways_of(data: TrainingData) -> dict[str, dict[str, Callable[[], Timed]]]:
    """Returns every way to fit, by head.

    Raises:
      NotRun: if scikit-learn is not installed.
    """
    if not installed("scikit-learn"):
        raise NotRun("scikit-learn is not installed; pip install 'hoarfrost[bench]' brings it")
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.neighbors import KNeighborsClassifier

    sides = Sides.of(data)
    spelled = f"logistic:l2={','.join(map(repr, PENALTIES))}"
    found: dict[str, dict[str, Callable[[], Timed]]] = {
        spelled: {"scikit-learn": partial(scikit_logistic, sides)},
        "ridge": {"scikit-learn": partial(scikit, RidgeClassifierCV(ALL["ridge"]), sides)},
    }
    for metric in ("cosine", "euclidean"):
        model = KNeighborsClassifier(NEIGHBOURS, metric=metric, algorithm="brute")
        found[f"knn:{NEIGHBOURS}:{metric}:majority"] = {
            "scikit-learn": partial(scikit, model, sides)
        }
    for head, ways in found.items():
        ways["Hoarfrost"] = partial(ours, head, data, sides)
    return found


def measure(data: TrainingData, rounds: int) -> list[list[str]]:
    """Returns the rows of the table; a warm-up round comes first."""
    rows = []
    for head, ways in ways_of(data).items():
        timed: dict[str, list[Timed]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, work in list(ways.items())[:: 1 if turn % 2 == 0 else -1]:
                timed[name].append(work())
                say(f"  {head}, round {turn}, {name}: {timed[name][-1]}", to_stderr=True)
        theirs = timed["scikit-learn"][1:]
        least = np.min([every[-1].losses for every in timed.values()], axis=0)
        for name, every in timed.items():
            counted = every[1:]
            cells = [number(statistics.median(each.seconds for each in counted), " s")]
            for kind in ("seconds", "processor"):
                mine, other = ([getattr(each, kind) for each in all] for all in (counted, theirs))
                cells.append(number(paired_ratio(mine, other)))
            above = NOTHING
            if len(least):
                above = f"{float((np.array(counted[-1].losses) / least - 1).max()):.1e}"
            rows.append([head, name, *cells, f"{counted[-1].accuracy:.4f}", above])
    return rows


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    counts = {"rows": 2000, "features": 1280, "rounds": 3}
    args = counted_parser("benchmarks.exact", __doc__, **counts).parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        case = Case("ridge", (args.features,), "float32", args.rows, {}, 1, ())
        store = made_store(case, Path(name) / "store")
        data = prepare_data(store, divide(store), TrainOptions())
        rows = measure(data, args.rounds)
    header = ["head", "way", "time", "x its time", "x its processor time"]
    header += ["validation accuracy", "loss above the least"]
    title = f"{args.rows:,} rows of ({args.features},), {args.rounds} rounds after a warm-up:"
    publish("benchmarks.exact", [title, "", *table(header, rows)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
