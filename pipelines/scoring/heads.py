"""Scores rows with the heads of a run, and writes their best classes as a Parquet file."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from classifier.engines import limit_threads
from classifier.judgement.prediction import probabilities_of
from classifier.runs.run import Run
from classifier.runtime import import_keras
from featurestore.schema import META_FIELDS
from featurestore.writer import PartWriter, Written
from pipelines.scoring.spec import ScoreSpec

# In a part's footer: what `pipelines.scoring.drift` adds up.
SUMS = b"hoarfrost.sums"


def score_schema(spec: ScoreSpec) -> pa.Schema:
    """Returns the columns of a part: those of an image, then the answers of each head."""
    texts = pa.list_(pa.field("element", pa.string(), nullable=False))
    numbers = pa.list_(pa.field("element", pa.float32(), nullable=False))
    fields = list(META_FIELDS)
    for head_id in spec.heads:
        fields.append(pa.field(f"{head_id}_classes", texts, nullable=False))
        fields.append(pa.field(f"{head_id}_probabilities", numbers, nullable=False))
        if spec.logits:
            fields.append(pa.field(f"{head_id}_logits", numbers, nullable=False))
    return pa.schema(fields)


@dataclass(frozen=True)
class Scorer:
    """The heads of a run, loaded.

    Attributes:
      run: has the heads.
      spec: of the scores.
      heads: head_id -> float (n, *feature_shape) to logits.
    """

    run: Run
    spec: ScoreSpec
    heads: Mapping[str, Callable[[np.ndarray], np.ndarray]]

    @classmethod
    def load(cls, run: Run, spec: ScoreSpec, lanes: int) -> Scorer:
        """Loads the heads; TensorFlow, if a head needs it, gets as many threads as `lanes`."""
        if not all(run.read_head(name).is_known for name in spec.heads):
            import_keras()
            limit_threads(lanes, lanes)
        heads = {name: run.logits_of(name) for name in spec.heads}
        for logits_of in heads.values():
            # Keras compiles a head at its first call, for which the lanes would wait.
            logits_of(np.zeros((1, *spec.features.feature_shape), np.float32))
        return cls(run, spec, heads)

    def columns(self, features: np.ndarray) -> tuple[list[pa.Array], dict[str, np.ndarray]]:
        """Scores rows.

        Args:
          features: float (n, *feature_shape).

        Returns:
          (the columns of `score_schema` behind those of the image, the index of the best class of
          each row by head).
        """
        names = np.array(self.run.classes, object)
        if self.spec.features.dtype == "float16":
            # The heads learned from rounded features.
            features = features.astype(np.float16)
        columns: list[pa.Array] = []
        first: dict[str, np.ndarray] = {}
        for head_id, logits_of in self.heads.items():
            logits = logits_of(features)
            probabilities = probabilities_of(self.run, logits)
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.spec.top]
            chosen = np.take_along_axis(probabilities, best, axis=1).astype(np.float32)
            columns += [_lists(names[best], pa.string()), _lists(chosen, pa.float32())]
            if self.spec.logits:
                columns.append(_lists(logits.astype(np.float32), pa.float32()))
            first[head_id] = best[:, 0]
        return columns, first


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Returns the rows of (n, k) as lists."""
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    element = pa.field("element", kind, nullable=False)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel(), kind), type=pa.list_(element))


class ScoreWriter(PartWriter):
    """Writes a part of scores; takes features, as the writer of a store does.

    Args:
      path: of the new file.
      scorer: scores the rows.
    """

    def __init__(self, path: Path, scorer: Scorer) -> None:
        self._scorer = scorer
        width = scorer.spec.features.feature_shape[-1]
        self._sum, self._count = np.zeros(width), 0
        self._best: dict[str, Counter[int]] = {name: Counter() for name in scorer.heads}
        super().__init__(path, scorer.spec.features)

    def schema(self) -> pa.Schema:
        return score_schema(self._scorer.spec)

    def settings(self) -> dict[str, Any]:
        return {"compression": "zstd"}

    def table(self, rows: Sequence[Mapping[str, Any]], features: np.ndarray) -> pa.Table:
        answers, best = self._scorer.columns(features)
        for head_id, numbers in best.items():
            self._best[head_id].update(numbers.tolist())
        by_channel = features.reshape(-1, features.shape[-1])
        self._sum += by_channel.sum(axis=0, dtype=np.float64)
        self._count += len(by_channel)
        columns = [pa.array([row[field.name] for row in rows], field.type) for field in META_FIELDS]
        return pa.Table.from_arrays([*columns, *answers], schema=self.schema())

    def finish(self) -> Written:
        self._flush()
        sums = {
            "count": self._count,
            "sum": base64.b64encode(self._sum.tobytes()).decode(),
            "best": {head_id: dict(counts) for head_id, counts in self._best.items()},
        }
        self._writer.add_key_value_metadata({SUMS.decode(): json.dumps(sums)})
        return super().finish()
