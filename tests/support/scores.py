"""The rows that `pipelines.score` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

HEADS = ("linear", "mlp-8-relu")


def score_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows by key, read with PyArrow alone."""
    table = pyarrow.dataset.dataset(folder / "parts", format="parquet").to_table()
    rows = {row["key"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows, "a key twice"
    return rows


def assert_same_scores(one: Path, other: Path, heads: Sequence[str] = HEADS) -> None:
    """Checks that two folders of scores have the same keys, and per head the same classes."""
    one, other = score_rows(one), score_rows(other)
    assert one.keys() == other.keys()
    for key, row in one.items():
        for head in heads:
            names = f"{head}_classes", f"{head}_probabilities"
            first, second = (
                dict(zip(*(r[n] for n in names), strict=True)) for r in (row, other[key])
            )
            assert first == pytest.approx(second, abs=1e-5), key
