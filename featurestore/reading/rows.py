"""Rows of one row group on their way to NumPy columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.schema import FEATURES

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """Rows of one row group.

    Attributes:
      table: all wanted columns but features; it may have no columns.
      features: (n, *feature_shape), or None when they are not wanted.
      patched: labels and split, if an overlay may have changed them.
    """

    table: pa.Table
    features: np.ndarray | None
    patched: Columns

    def only(self, keep: np.ndarray) -> Rows:
        """Returns the rows that bool (n,) marks."""
        return Rows(
            self.table.filter(pa.array(keep)) if self.table.num_columns else self.table,
            None if self.features is None else self.features[keep],
            {name: values[keep] for name, values in self.patched.items()},
        )

    def batches(self, columns: Sequence[str], size: int) -> Iterator[Columns]:
        """Yields the wanted columns, at most `size` rows at a time."""
        count = self.table.num_rows if self.features is None else len(self.features)
        names = [name for name in columns if name not in (FEATURES, *self.patched)]
        for start in range(0, count, size):
            rows = slice(start, start + size)
            batch = to_numpy(self.table.slice(start, size), names)
            batch |= {name: values[rows] for name, values in self.patched.items()}
            if self.features is not None:
                batch[FEATURES] = self.features[rows]
            yield {name: batch[name] for name in columns}


def to_numpy(table: pa.Table, columns: Iterable[str]) -> Columns:
    """Converts columns other than features to NumPy; see `Scanner.scan` for the types."""
    return {
        name: _object_array(table[name].to_pylist()) if name == "labels" else table[name].to_numpy()
        for name in columns
    }


def _object_array(values: list) -> np.ndarray:
    # np.array would turn lists of equal length into a second axis.
    array = np.empty(len(values), object)
    array[:] = values
    return array
