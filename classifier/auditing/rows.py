"""The rows of a store as an audit needs them: names in memory, features in a file.

Features may be larger than memory, so they lie in a temporary file that the system maps. Of a
feature map only the mean over its places is kept, and of pixels the means of an 8 by 8 grid.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.order import Rows, flattened
from classifier.heads.head import Moments, Standard, standardised
from classifier.inputs.sources import shard_under
from classifier.judgement.outcomes import ROW_COLUMNS
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from featurestore import FeatureStore

NAMES = ("key", "split", "labels", "content_hash")
GRID = 8
BLOCK = 4096


@dataclass(frozen=True)
class Vectors:
    """Rows of numbers in a file, of which only those that are asked for come into memory.

    It is read and not mapped, because the pages of a mapped file count as memory of the process.

    Attributes:
      path: of the file.
      shape: (n, d).
    """

    path: Path
    shape: tuple[int, int]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (m, d); slices are of consecutive rows."""
        count, size = self.shape
        with self.path.open("rb", buffering=0) as file:
            if isinstance(rows, slice):
                start, stop, _ = rows.indices(count)
                file.seek(4 * start * size)
                return np.fromfile(file, np.float32, (stop - start) * size).reshape(-1, size)
            found = np.empty((len(rows), size), np.float32)
            for place, row in enumerate(rows.tolist()):
                file.seek(4 * row * size)
                file.readinto(found[place])
        return found


@dataclass(frozen=True)
class AuditRows:
    """The unaugmented rows of a store, in stored order.

    Attributes:
      key, split, labels, content_hash: object (n,), the store's columns; labels are lists.
      vectors: of (n, d).
      standard: mean and deviation of each of the d values.
    """

    key: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    content_hash: np.ndarray
    vectors: Vectors
    standard: Standard

    def __len__(self) -> int:
        return len(self.key)

    def label(self, row: int) -> str:
        """Returns a row's labels as one text."""
        return ", ".join(self.labels[row])

    def rows_by_label(self) -> dict[str, np.ndarray]:
        """Returns int64 (m,) row numbers of each label, of rows with exactly one."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, labels in enumerate(self.labels):
            if len(labels) == 1:
                found[labels[0]].append(row)
        return {label: np.array(rows, np.int64) for label, rows in found.items()}

    def scaled(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (m, d): the standardised vectors of some rows."""
        return scaled(self.vectors[rows], self.standard)

    def units(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (m, d): standardised vectors of length 1, whose products are cosines."""
        return unit(self.scaled(rows))

    def blocks(self) -> Iterator[slice]:
        """Yields all rows in blocks."""
        for start in range(0, len(self), BLOCK):
            yield slice(start, min(start + BLOCK, len(self)))


def reduced(features: np.ndarray, is_pixels: bool) -> np.ndarray:
    """Returns float32 (n, d): a vector for each row of features.

    Args:
      features: (n, d), which stays as it is, or (n, h, w, c).
      is_pixels: whether these are pixels, whose mean alone would say little.

    Example:
      >>> maps = np.arange(8.0).reshape(1, 2, 2, 2)
      >>> reduced(maps, is_pixels=False)
      array([[3., 4.]], dtype=float32)
    """
    if features.ndim == 2:
        return features.astype(np.float32)
    if features.ndim != 4 or not is_pixels:
        places = tuple(range(1, features.ndim - 1))
        return features.mean(axis=places, dtype=np.float32)
    grid: np.ndarray = features.astype(np.float32)
    for axis in (1, 2):
        size = grid.shape[axis]
        starts = np.unique(np.arange(GRID) * size // GRID)
        counts = np.diff(np.append(starts, size)).astype(np.float32)
        shape = [1] * grid.ndim
        shape[axis] = -1
        grid = np.add.reduceat(grid, starts, axis=axis) / counts.reshape(shape)
    return flattened(grid)


def scaled(vectors: np.ndarray, standard: Standard) -> np.ndarray:
    """Returns float32 (n, d): vectors, standardised."""
    return standardised(Rows(np.asarray(vectors), np.zeros(len(vectors), np.int64)), standard)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors scaled to length 1; a vector of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def directions_of(features: np.ndarray, standard: Standard, is_pixels: bool) -> np.ndarray:
    """Returns float32 (n, d): the standardised vectors of rows, scaled to length 1.

    Args:
      features: of the rows, as for `reduced`.
      standard: of the vectors.
      is_pixels: as for `reduced`.
    """
    return unit(scaled(reduced(features, is_pixels), standard))


@contextmanager
def read_rows(store: FeatureStore) -> Iterator[AuditRows]:
    """Reads a store's rows; their file is deleted at the end.

    Raises:
      UsageError: for a store without rows.
    """
    names: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    moments, size = None, 0
    with tempfile.TemporaryDirectory(prefix="hoarfrost-audit-") as folder:
        path = Path(folder) / "vectors"
        with path.open("wb") as file:
            for batch in store.scan((*NAMES, "features"), views=[0]):
                vectors = reduced(batch["features"], store.spec.is_pixels)
                size = vectors.shape[1]
                moments = moments or Moments(size)
                moments.update(vectors)
                file.write(vectors.tobytes())
                for name in NAMES:
                    names[name].append(batch[name])
        if moments is None:
            raise UsageError(
                f"the store at {store.url} has no rows to look at; extract images into it first"
            )
        columns = {name: np.concatenate(parts) for name, parts in names.items()}
        in_file = Vectors(path, (len(columns["key"]), size))
        yield AuditRows(**columns, vectors=in_file, standard=moments.standard())


def image_records(store: FeatureStore, wanted: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Returns what leads from rows to their images: row number -> columns and ``shard``.

    Args:
      store: at the moment at which its rows were read.
      wanted: numbers of rows in stored order.
    """
    rest, found, start = sorted(set(wanted)), {}, 0
    markers = list(store.markers().values())
    for batch in store.scan(ROW_COLUMNS, views=[0], batch_size=8192):
        count = len(batch["key"])
        while rest and rest[0] < start + count:
            row = rest.pop(0)
            values = {name: batch[name][row - start] for name in ROW_COLUMNS}
            plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}
            found[row] = {**plain, "shard": shard_under(plain["uri"], markers)}
        start += count
        if not rest:
            break
    return found
