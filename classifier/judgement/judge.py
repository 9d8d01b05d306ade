"""Judges a head on a split: figures, intervals, calibration, confusions and worst mistakes.

In a run's folder, ``calibration/<head_id>.json`` holds the temperature that was fitted on
validation rows, ``evaluation/<split>-<head_id>.json`` holds `JudgedHead.record`, and
``learning/<split>-<head_id>.json`` holds the accuracy by number of training images.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier.features.division import names_of_split
from classifier.inputs.sources import shard_under
from classifier.judgement.confusions import confused_pairs
from classifier.judgement.evaluation import Scores, evaluate, select_split
from classifier.judgement.intervals import accuracy_interval, difference_interval, sign_test
from classifier.judgement.multilabel import MultiLabelScores
from classifier.judgement.outcomes import Outcomes
from classifier.judgement.temperature import fit_temperature, reliability, scaled
from classifier.runs.run import Run, calibration_file, dump_json
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from featurestore import FeatureStore

VALIDATION = "validation"
# A nearest-neighbour head holds one number per training row for each row of a batch.
BATCH_SIZE = 256


@dataclass(frozen=True)
class JudgedHead:
    """The evaluation of a head on a split.

    Attributes:
      record: all figures as JSON values.
      scores: the sums behind them.
      outcomes: of each row; empty for multi-label heads.
    """

    record: dict[str, Any]
    scores: Scores | MultiLabelScores
    outcomes: Outcomes


def judge(run: Run, head_id: str, store: FeatureStore, split: str) -> JudgedHead:
    """Evaluates a head, and how reliable its figures and its probabilities are.

    If the run has no temperature for the head yet, one is fitted on the validation rows of the
    store, if it has any. This writes nothing: see `save_temperature`.

    Args:
      run: that trained the head.
      head_id: of the head.
      store: of the same features.
      split: a name that `select_split` accepts.

    Raises:
      UsageError: when there is no such split, or none of its rows has a label that the head knows.
    """
    outcomes = Outcomes(run.classes)
    selection = select_split(run, store, split)
    scores = evaluate(
        run, head_id, store, selection, BATCH_SIZE, None if run.multi_label else outcomes
    )
    markers = list(store.markers().values())
    record = {
        "run": run.url,
        "head_id": head_id,
        "store": store.url,
        "split": split,
        "classes": list(run.classes),
        **scores.to_record(),
        "calibration": None,
        "ledger": dataclasses.asdict(store.ledger()),
    }
    if isinstance(scores, Scores):
        if names_of_split(split, [VALIDATION]):
            fitted = _temperature_record(run, head_id, store, outcomes)
        else:
            fitted = load_temperature(run, head_id) or _fit_on_validation(run, head_id, store)
        hits = int(outcomes.right.sum())
        record |= {
            "interval": accuracy_interval(hits, scores.rows).to_record(),
            "calibration": _calibration(outcomes, fitted),
            "confused": confused_pairs(scores.confusion, run.classes),
            "mistakes": [
                {**mistake.to_record(), "shard": shard_under(mistake.uri, markers)}
                for mistake in outcomes.mistakes
            ],
        }
    return JudgedHead(record, scores, outcomes)


def _calibration(outcomes: Outcomes, fitted: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns the reliability before and after scaling; None if no row has a finite prediction."""
    logs, labels = outcomes.sample()
    if not len(labels):
        return None
    after = None
    if fitted:
        after = dataclasses.asdict(reliability(scaled(logs, fitted["temperature"]), labels))
    return {
        "rows": len(labels),
        "temperature": fitted,
        "before": dataclasses.asdict(reliability(logs, labels)),
        "after": after,
    }


def _temperature_record(
    run: Run, head_id: str, store: FeatureStore, outcomes: Outcomes
) -> dict[str, Any] | None:
    logs, labels = outcomes.sample()
    if not len(labels):
        return None
    return {
        "head_id": head_id,
        "temperature": fit_temperature(logs, labels),
        "split": VALIDATION,
        "rows": len(labels),
        "store": store.url,
    }


def _fit_on_validation(run: Run, head_id: str, store: FeatureStore) -> dict[str, Any] | None:
    try:
        selection = select_split(run, store, VALIDATION)
        outcomes = Outcomes(run.classes)
        evaluate(run, head_id, store, selection, BATCH_SIZE, outcomes)
    except UsageError:
        return None  # The store has no validation rows.
    return _temperature_record(run, head_id, store, outcomes)


def load_temperature(run: Run, head_id: str) -> dict[str, Any] | None:
    """Returns the content of ``calibration/<head_id>.json``; None if it cannot be read."""
    try:
        found = json.loads(run.storage.read(calibration_file(head_id)))
        return found if found["temperature"] > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_temperature(run: Run, record: Mapping[str, Any]) -> None:
    """Writes the temperature of `JudgedHead.record` into the run, if there is one."""
    calibration = record["calibration"]
    if calibration and (fitted := calibration["temperature"]):
        run.storage.write(calibration_file(fitted["head_id"]), dump_json(fitted))


def compare(first: JudgedHead, second: JudgedHead) -> dict[str, Any]:
    """Compares two heads on the same rows.

    Returns:
      ``head_id``, ``accuracy`` and ``loss`` of the second head; ``difference``, the first head's
      accuracy minus the second's, as an interval's record; ``p_value`` of `sign_test`, and whether
      the difference is ``beyond_chance``.

    Raises:
      UsageError: when the store changed between the two evaluations.
    """
    ours, theirs = first.outcomes.content, second.outcomes.content
    if len(ours) != len(theirs) or (ours != theirs).any():
        raise UsageError(
            "--compare: the rows of the store changed while the heads were evaluated; run the "
            "command again when the extraction has ended"
        )
    pair = first.outcomes.right, second.outcomes.right
    difference, p_value = difference_interval(*pair), sign_test(*pair)
    return {
        "head_id": second.record["head_id"],
        "accuracy": second.record["accuracy"],
        "loss": second.record["loss"],
        "difference": difference.to_record(),
        "p_value": p_value,
        "beyond_chance": p_value < 1 - difference.level,
    }


def comparison_line(name: str, other: str, comparison: Mapping[str, Any]) -> str:
    """Returns a line about a comparison; `name` and `other` are the two heads in words."""
    found = comparison["difference"]
    verdict = "beyond chance" if comparison["beyond_chance"] else "within chance"
    return (
        f"{name} minus {other}: {found['estimate']:+.4f} ({found['lower']:+.4f} to "
        f"{found['upper']:+.4f}) on the same rows, {verdict} (p {comparison['p_value']:.2g}, sign "
        "test)"
    )


def file_name(split: str, head_id: str) -> str:
    """Returns the name of an evaluation's files, without suffix.

    Example:
      >>> file_name("../x y", "linear")
      '.._x_y-linear'
    """
    # The user chose the split's name, which may contain characters that a file name may not.
    safe = re.sub(r"[^\w.-]", "_", split)
    return f"{safe}-{head_id}"


def learning_file(split: str, head_id: str) -> str:
    """Returns the path of a learning curve in a run."""
    return f"learning/{file_name(split, head_id)}.json"
