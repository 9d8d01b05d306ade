"""Is the best head of a run as good as what scikit-learn fits on the same features?

    python -m benchmarks.probing [--sets digits,photographs]

The features are those of MobileNetV2 at 160, pooled. ``classifier.train`` fits several kinds of
heads, and only the one with the best validation loss is tested. Scikit-learn fits
`LogisticRegressionCV` with its ten penalties and five folds, on standardised features of the
training and validation rows together. The difference is taken in pairs over the same test rows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.arguments import add_sets, counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.images import photographs
from benchmarks.processes import module, run_command
from benchmarks.tables import number, publish, table
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.intervals import difference_interval
from classifier.runs.run import load_run
from featurestore import FeatureStore, open_store
from featurestore.cli.command import main, say
from pipelines.planning.digits import write_digits

PATCH = 40
PATCHES = {"train": (0.0, 0.5, 60), "validation": (0.5, 0.65, 20), "test": (0.65, 1.0, 60)}
HEADS = ("linear", "mlp:256:relu:dropout=0.5", "ridge", "logistic")
VALIDATION_PER_CLASS = 10
TIMEOUT = 1800


@dataclass(frozen=True)
class Comparison:
    """The results for one set of images.

    Attributes:
      rows: (training, validation, test).
      ours: id and test accuracy of the run's best head, and seconds of the run.
      theirs: test accuracy and seconds of scikit-learn's fit.
      difference: ours minus theirs, with its 95% interval: (estimate, lower, upper).
    """

    rows: tuple[int, int, int]
    ours: tuple[str, float, float]
    theirs: tuple[float, float]
    difference: tuple[float, float, float]


def write_patches(folder: Path) -> None:
    """Writes patches of photographs, a class per photograph; splits are separate strips.

    Args:
      folder: gets ``split/class/number.png``.
    """
    random = np.random.default_rng(0)
    for name, photograph in photographs().items():
        height, width = photograph.shape[:2]
        for split, (left, right, count) in PATCHES.items():
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                x = random.integers(int(left * width), int(right * width) - PATCH + 1)
                y = random.integers(0, height - PATCH + 1)
                patch = photograph[y : y + PATCH, x : x + PATCH]
                Image.fromarray(patch).save(target / f"{index:03d}.png")


SETS: dict[str, Callable[[Path], object]] = {"digits": write_digits, "photographs": write_patches}


def copy_some(source: Path, target: Path, per_class: int, seed: int) -> None:
    """Copies all test images of a set, and as many others per class as asked.

    Args:
      source: ``split/class/*`` of a set.
      target: gets the same folders.
      per_class: number of training images; validation has `VALIDATION_PER_CLASS`.
      seed: draws the images.
    """
    shutil.copytree(source / "test", target / "test")
    random = np.random.default_rng(seed)
    for split, count in (("train", per_class), ("validation", VALIDATION_PER_CLASS)):
        for folder in sorted((source / split).iterdir()):
            (target / split / folder.name).mkdir(parents=True)
            names = sorted(path.name for path in folder.iterdir())
            for name in random.choice(names, count, replace=False):
                shutil.copy2(folder / name, target / split / folder.name)


def compare(folder: Path, write: Callable[[Path], object]) -> Comparison:
    """Extracts a set of images, and fits both ways on its features."""
    base = BASES["MobileNetV2"]
    write(folder / "images")
    flags = base.flags(write_base_apart(base, folder))
    source, target = ("--input", str(folder / "images")), ("--output", str(folder / "store"))
    run_command(module("pipelines.extract", *source, *target, *flags), folder, TIMEOUT)
    heads = [part for head in HEADS for part in ("--head", head)]
    where = ("--store", str(folder / "store"), "--output", str(folder / "run"))
    done = run_command(
        module("classifier.train", *where, *heads, "--lr", "1e-3,1e-4", "--json"), folder, TIMEOUT
    )
    store, head_id = open_store(str(folder / "store")), json.loads(done.out)["best"]
    test = _split(store, ["test"])
    run = load_run(str(folder / "run"))
    logits = run.logits_of(head_id)(test[0])
    # For two classes a head gives one logit.
    right = np.array(run.classes)[log_probabilities(logits).argmax(axis=1)] == test[1]
    started = time.perf_counter()
    known = _split(store, ["train", "validation"])
    expected = _scikit_learns(*known, test[0]) == test[1]
    seconds = time.perf_counter() - started
    found = difference_interval(right, expected)
    counts = [len(_split(store, [split])[1]) for split in ("train", "validation")]
    return Comparison(
        (counts[0], counts[1], len(test[1])),
        (head_id, float(right.mean()), done.seconds),
        (float(expected.mean()), seconds),
        (found.estimate, found.lower, found.upper),
    )


def _split(store: FeatureStore, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 (n, d) features and str (n,) labels."""
    rows = store.load(["features", "labels"], splits=splits)
    return rows["features"], np.array([labels[0] for labels in rows["labels"]])


def _scikit_learns(features: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=1000))
    return fit.fit(features, labels).predict(test)


def report(found: dict[str, Comparison]) -> list[str]:
    """Returns the table, as lines of Markdown."""
    rows = []
    for name, one in found.items():
        head_id, accuracy, seconds = one.ours
        estimate, lower, upper = (f"{100 * value:+.1f}" for value in one.difference)
        rows.append(
            [
                name,
                " / ".join(f"{count:,}" for count in one.rows),
                head_id,
                f"{accuracy:.4f}",
                f"{one.theirs[0]:.4f}",
                f"{estimate} ({lower} to {upper})",
                number(seconds, " s"),
                number(one.theirs[1], " s"),
            ]
        )
    header = ["set", "rows: train / validation / test", "best head", "test accuracy"]
    header += ["LogisticRegressionCV", "difference in points (95%)"]
    header += ["time, classifier.train", "time, LogisticRegressionCV"]
    return table(header, rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.probing", __doc__)
    add_sets(parser, SETS)
    args = parser.parse_args(argv)
    found = {}
    for name in args.sets:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            say(f"  {name}", to_stderr=True)
            found[name] = compare(Path(folder), SETS[name])
    publish("benchmarks.probing", report(found), args.write)
    return 0


if __name__ == "__main__":
    main(run)
