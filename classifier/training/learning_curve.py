"""Accuracy over the number of training rows: would more images help?

Subsets are chosen by content hash and lie within one another, so that a point differs from the
next by rows that came, never by rows that left; all views of an image come together.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.division import Division, class_numbers, divide, single_labels, tally
from classifier.features.selection import Selection
from classifier.heads.exactspec import ExactSpec
from classifier.heads.head import parse_head
from classifier.heads.options import TrainOptions
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.judgement.evaluation import Scores, evaluate
from classifier.judgement.intervals import accuracy_interval
from classifier.runs.run import Run
from featurestore.errors import HoarfrostError, UsageError, one_line
from featurestore.io.storage import Storage

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
    """Trains a head's settings anew on parts of the training rows, and evaluates each.

    Args:
      run: that trained the head.
      head_id: of the head.
      store: that the run was trained on.
      selection: the rows to evaluate on.
      tell: takes lines for the user.

    Returns:
      A record a fraction: ``fraction``, ``images`` (training images), ``rows`` (evaluated) and
      ``accuracy`` as an interval's record; or ``reason`` in place of these where the head could
      not be trained on so few.

    Raises:
      UsageError: when the store's training rows are not the run's.
    """
    if run.multi_label:
        raise UsageError(
            "--learning_curve needs one label per row, and the heads of this run are multi-label; "
            "leave it out"
        )
    division = divide(store)
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


def options_of_head(run: Run, head_id: str) -> TrainOptions:
    """Returns the options that train one head of a run as it was trained there.

    Args:
      run: knows its options, and by the leaderboard what each head took of them.
      head_id: of the head.
    """
    record = next(row for row in run.leaderboard() if row["head_id"] == head_id)
    head = parse_head(run.config.heads[head_id])
    # An exact head chose its penalty among those of the run, and is to choose again; how many
    # epochs the run allowed says the run, not how many a head took.
    own = {} if isinstance(head, ExactSpec) else {**record, "epochs": None}
    left_out = {"heads", "dropout"}
    others = map(parse_head, run.config.options["head"])
    if isinstance(head, ExactSpec) and not all(isinstance(other, ExactSpec) for other in others):
        left_out.add("l2")  # of the run's other heads
    settings: dict[str, Any] = {}
    for option in dataclasses.fields(TrainOptions):
        value = own.get(option.name)
        value = run.config.options.get(option.name) if value is None else value
        # The head's spelling has its own dropout, whatever others of the run had.
        if option.name in left_out or value is None:
            continue
        if isinstance(option.default, tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        settings[option.name] = value
    return TrainOptions(heads=(head,), **settings)


def boundaries(
    store: FeatureStore, division: Division, fractions: Sequence[float]
) -> list[tuple[str, int]]:
    """Finds where content hashes are cut so that parts of the training images lie below.

    Args:
      store: of the images.
      division: which rows train.
      fractions: of the images, up to 1.

    Returns:
      (`Selection.share`, images below it) a fraction, at least one image each.
    """
    ends = []
    survey = dataclasses.replace(division.train, views=False)
    for batch in survey.batches(store, ("labels", "content_hash"), batch_size=8192):
        known = class_numbers(single_labels(batch["labels"]), division.classes) >= 0
        ends += [value[-8:] for value in batch["content_hash"][known]]
    ends.sort()
    bounds = [ends[max(1, math.ceil(fraction * len(ends))) - 1] for fraction in fractions]
    places = np.searchsorted(np.array(ends), bounds, side="right")
    return list(zip(bounds, places.tolist(), strict=True))


def part_of(store: FeatureStore, division: Division, bound: str) -> Division:
    """Returns a division that trains on less, and validates on the same rows.

    Args:
      store: of the rows.
      division: of all of them.
      bound: of `boundaries`.
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


def _quiet(line: str) -> None:
    """Says nothing."""


def _accuracy(
    run: Run, store: FeatureStore, division: Division, options: TrainOptions, selection: Selection
) -> dict[str, Any]:
    """Fits the one head of `options` on a division's rows and evaluates it."""
    from classifier.training.data import prepare_data
    from classifier.training.trials import fit_all

    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        storage = Storage(folder)
        data = prepare_data(store, division, options)
        # Seconds of training, in a folder that goes with the process: nothing to go on from.
        checkpoint = Checkpoint(storage, {}, _quiet, math.inf)
        records, _ = fit_all(storage, data, options, _quiet, lambda: None, checkpoint)
        head_id = records[0]["head_id"]
        heads = {head_id: records[0]["head"]}
        fitted = Run(storage, dataclasses.replace(run.config, heads=heads))
        scores = evaluate(fitted, head_id, store, selection)
    assert isinstance(scores, Scores)
    hits = int(np.diag(scores.confusion).sum())
    return {"rows": scores.rows, "accuracy": accuracy_interval(hits, scores.rows).to_record()}
