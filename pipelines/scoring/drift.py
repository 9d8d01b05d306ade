"""How far scored images are from those that a run was trained on."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from classifier.runs.run import SUMMARY, Run
from featurestore.io.readahead import in_order
from featurestore.store import FeatureStore
from pipelines.scoring.heads import SUMS
from pipelines.scoring.spec import ScoreSpec

MOST_PARTS = 4096


def drift_record(scores: FeatureStore, run: Run, spec: ScoreSpec) -> dict[str, Any]:
    """Compares the scored images with the training rows, as far as the run records these.

    Of more than `MOST_PARTS` parts, every n-th is read.

    Args:
      scores: the folder of the scores.
      run: has the heads, and the number of its training rows by class.
      spec: of the scores.

    Returns:
      ``feature_distance``: how far the mean feature of the scored images is from that of the
      training rows, in standard deviations of the training rows, as root mean square over the
      channels; None where no head keeps these statistics. ``classes``: by head, for each class the
      share of images for which it is the best. ``trained``: the share of training rows of each
      class; None for a run that does not record them. ``class_distance``: by head, half the sum of
      the differences between the two, from 0 to 1.
    """
    total, count = np.zeros(spec.features.feature_shape[-1]), 0
    best: dict[str, Counter[int]] = {head_id: Counter() for head_id in spec.heads}
    names = [marker.part for marker in scores.markers().values() if marker.part]
    some = names[:: -(-len(names) // MOST_PARTS) or 1]
    for sums in in_order(partial(_sums, scores, name) for name in some):
        total += np.frombuffer(base64.b64decode(sums["sum"]))
        count += sums["count"]
        for head_id, counts in sums["best"].items():
            best[head_id].update({int(number): rows for number, rows in counts.items()})
    shares = {head_id: _shares(counts, len(spec.classes)) for head_id, counts in best.items()}
    trained = _trained(run)
    distances = None
    if trained is not None:
        distances = {
            head_id: float(np.abs(share - trained).sum() / 2) for head_id, share in shares.items()
        }
    return {
        "feature_distance": _distance(run, list(spec.heads), total / max(count, 1)),
        "classes": {
            head_id: dict(zip(spec.classes, share.tolist(), strict=True))
            for head_id, share in shares.items()
        },
        "trained": None
        if trained is None
        else dict(zip(spec.classes, trained.tolist(), strict=True)),
        "class_distance": distances,
    }


def _sums(scores: FeatureStore, name: str) -> dict[str, Any]:
    with scores.storage.open_parquet(f"parts/{name}") as part:
        return json.loads(part.metadata.metadata[SUMS])


def _shares(counts: Counter[int], classes: int) -> np.ndarray:
    rows = np.array([counts[number] for number in range(classes)], np.float64)
    return rows / max(rows.sum(), 1)


def _trained(run: Run) -> np.ndarray | None:
    """Returns the share of training rows of each class."""
    try:
        rows = np.array(json.loads(run.storage.read(SUMMARY))["class_rows"], np.float64)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows / max(rows.sum(), 1)


def _distance(run: Run, head_ids: Sequence[str], mean: np.ndarray) -> float | None:
    for head_id in head_ids:
        standard = run.read_head(head_id).weights.get("standardise")
        if standard:
            known, variance = (value.ravel().astype(np.float64) for value in standard[:2])
            distance = (mean - known) / np.sqrt(np.maximum(variance, 1e-12))
            return float(np.sqrt(np.mean(distance**2)))
    return None


def drift_lines(record: dict[str, Any]) -> list[str]:
    """Returns what a person needs to know of `drift_record`."""
    far = record["feature_distance"]
    lines = ["drift: the run keeps no statistics of its training rows' features"]
    if far is not None:
        lines = [
            f"drift: the mean feature is {far:.2f} training deviations from that of the training "
            "rows"
        ]
    for head_id, shares in record["classes"].items():
        ranked = sorted(shares, key=lambda name: -shares[name])[:3]
        text = ", ".join(f"{name} {shares[name]:.1%}" for name in ranked)
        if record["trained"]:
            trained = record["trained"]
            text = ", ".join(
                f"{name} {shares[name]:.1%} (trained on {trained[name]:.1%})" for name in ranked
            )
            text += f"; the classes' shares differ by {record['class_distance'][head_id]:.1%}"
        lines.append(f"classes by {head_id}: {text}")
    return lines
