"""Accuracy over the number of training images: would more images help?

Content hashes decide which images a part holds, and every part contains the smaller ones. So a
point differs from the one before only by images that were added, each with all of its views.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.division import Division, divide, single_labels, tally
from classifier.features.sample import content_numbers
from classifier.features.selection import Selection
from classifier.heads.data import prepare_data
from classifier.heads.options import TrainOptions
from classifier.heads.spec import parse_head
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.judgement.evaluation import Scores, evaluate
from classifier.judgement.intervals import accuracy_interval
from classifier.runs.run import FINETUNED, Run
from classifier.training.trials import fit_all
from featurestore.errors import HoarfrostError, UsageError, one_line
from featurestore.io.storage import Storage
from featurestore.labels.numbers import class_numbers

if TYPE_CHECKING:
    from featurestore import FeatureStore

FRACTIONS = (0.1, 0.2, 0.5, 1.0)


def learning_curve(
    run: Run,
    head_id: str,
    store: FeatureStore,
    selection: Selection,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Trains a head again, with its settings, on parts of the training rows, and evaluates each.

    Args:
      run: that trained the head.
      head_id: of the head.
      store: that the run was trained on.
      selection: the rows to evaluate on.
      tell: takes lines for the user.

    Returns:
      A record per fraction: ``fraction``, ``images`` (training images), and either ``rows``
      (evaluated) and ``accuracy`` (an interval's record), or ``reason`` if the head could not be
      trained on so few images.

    Raises:
      UsageError: if the store's training rows are not the run's.
    """
    _require_one_label_and_frozen_base(run, head_id)
    division = divide(store, validation=run.config.options.get("validation", "auto"))
    if division.classes != run.classes or division.carve != run.config.carve:
        raise UsageError(
            f"--learning_curve trains again, and {store.url} does not have the classes and splits "
            f"that the run at {run.url} was trained on; give that store"
        )
    options = options_of_head(run, head_id)
    bounds = boundaries(store, division, FRACTIONS)
    points = []
    for fraction, (bound, images) in zip(FRACTIONS, bounds, strict=True):
        point: dict[str, Any] = {"fraction": fraction, "images": images}
        part = part_of(store, division, bound)
        try:
            point |= _accuracy(run, store, part, options, selection)
            text = f"accuracy {point['accuracy']['estimate']:.4f}"
        except HoarfrostError as error:
            point["reason"] = text = one_line(error)
        tell(f"  {head_id} on {fraction:.0%} of the training images, {images}: {text}")
        points.append(point)
    return points


def _require_one_label_and_frozen_base(run: Run, head_id: str) -> None:
    if run.multi_label:
        raise UsageError(
            "--learning_curve needs one label per row, and the heads of this run are multi-label; "
            "leave it out"
        )
    if FINETUNED in run.config.options:
        raise UsageError(
            f"--learning_curve trains a head again, and {head_id} holds fine-tuned layers of a "
            "base; evaluate the run that it began with"
        )


def options_of_head(run: Run, head_id: str) -> TrainOptions:
    """Returns the options that train a head of a run again as the run trained it.

    Args:
      run: holds its options, and in the leaderboard those of each head.
      head_id: of the head.
    """
    record = next(row for row in run.leaderboard() if row["head_id"] == head_id)
    head = parse_head(run.config.heads[head_id])
    # An exact head chooses its penalty again, among those of the run. The record's epochs are those
    # that the head took; the run knows how many it allowed.
    own = {} if head.is_exact else {**record, "epochs": None}
    left_out = {"heads", "dropout"}
    others = map(parse_head, run.config.options["head"])
    if head.is_exact and not all(other.is_exact for other in others):
        left_out.add("l2")  # of the run's other heads
    settings: dict[str, Any] = {}
    for option in dataclasses.fields(TrainOptions):
        value = own.get(option.name)
        value = run.config.options.get(option.name) if value is None else value
        # The head's spelling holds its dropout; other heads of the run may have had others.
        if option.name in left_out or value is None:
            continue
        if isinstance(option.default, tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        settings[option.name] = value
    return TrainOptions(heads=(head,), **settings)


def boundaries(
    store: FeatureStore, division: Division, fractions: Sequence[float]
) -> list[tuple[int, int]]:
    """Finds the content numbers up to which fractions of the training images lie.

    Args:
      store: of the images.
      division: which rows train.
      fractions: of the images, up to 1.

    Returns:
      (`Selection.share`, number of images in it) per fraction, with at least one image each.
    """
    found = []
    survey = dataclasses.replace(division.train, views=False)
    for batch in survey.batches(store, ("labels", "content_hash"), batch_size=8192):
        known = class_numbers(single_labels(batch["labels"]), division.classes) >= 0
        found.append(content_numbers(batch["content_hash"][known]))
    numbers = np.sort(np.concatenate(found))
    ends = [max(1, math.ceil(fraction * len(numbers))) - 1 for fraction in fractions]
    images = np.searchsorted(numbers, numbers[ends], side="right")
    return list(zip(numbers[ends].tolist(), images.tolist(), strict=True))


def part_of(store: FeatureStore, division: Division, bound: int) -> Division:
    """Returns a division that trains on fewer rows, and validates on the same rows.

    Args:
      store: of the rows.
      division: of all of them.
      bound: a `Selection.share` that `boundaries` found.
    """
    train = dataclasses.replace(division.train, share=bound)
    found = tally(store, train)
    return dataclasses.replace(
        division,
        train=train,
        train_counts=found.counts(division.classes),
        stored_rows=found.rows,
        rows=(found.rows_of(division.classes), division.rows[1]),
    )


def _accuracy(
    run: Run, store: FeatureStore, division: Division, options: TrainOptions, selection: Selection
) -> dict[str, Any]:
    """Fits the one head of `options` on a division's rows, and evaluates it."""

    def ignore(line: str) -> None:
        """Takes a line that the user does not see."""

    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        storage = Storage(folder)
        data = prepare_data(store, division, options)
        # Never saved: the training takes seconds, and its folder is temporary.
        checkpoint = Checkpoint(storage, {}, ignore, math.inf)
        records, _ = fit_all(storage, data, options, ignore, lambda: None, checkpoint)
        head_id = records[0]["head_id"]
        heads = {head_id: records[0]["head"]}
        fitted = Run(storage, dataclasses.replace(run.config, heads=heads))
        scores = evaluate(fitted, head_id, store, selection)
    assert isinstance(scores, Scores)
    hits = int(np.diag(scores.confusion).sum())
    return {"rows": scores.rows, "accuracy": accuracy_interval(hits, scores.rows).to_record()}
