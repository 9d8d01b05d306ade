"""An index of a store's rows in a folder, so that a search need not read millions of features.

    index.json               names the other two, and holds mean and deviation of the features
    DIGEST.usearch           the standardised vectors in a graph, which usearch searches
    DIGEST.parquet           the other columns of the same rows, in the same order

The graph is Malkov and Yashunin's ("Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs", https://arxiv.org/abs/1603.09320), which may miss a few
of the nearest rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from classifier.auditing.rows import directions_of
from classifier.auditing.search import COLUMNS, Match, store_standard
from classifier.heads.head import Standard
from featurestore.errors import UsageError, cause
from featurestore.io.urls import is_address
from featurestore.schema import META_FIELDS
from featurestore.taps import columns_of

if TYPE_CHECKING:
    from featurestore import FeatureStore

_INDEX = "index.json"
# Cosines of float16 vectors differ from those of float32 in the fourth digit.
_DTYPE = "f16"
_SCHEMA = pa.schema([field for field in META_FIELDS if field.name in COLUMNS])


def moment_digest(store: FeatureStore) -> str:
    """Returns 16 hex digits over the rows and labels that a store has at one moment."""
    parts = [marker.part for marker in store.markers().values()]
    columns = [column.column for column in columns_of(store.spec)]
    names = [store.spec.identity_hash, columns, parts, list(store.label_versions())]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoreIndex:
    """An index that is open.

    Attributes:
      rows: their columns but features.
      graph: the `usearch.index.Index` of their vectors, by row number.
      standard: mean and deviation of the features.
      is_pixels: whether the store holds pixels.
    """

    rows: pq.ParquetFile
    graph: Any
    standard: Standard
    is_pixels: bool

    @classmethod
    def open(cls, store: FeatureStore, folder: str) -> StoreIndex | None:
        """Opens the index in a folder; None where there is none of the store as it is now.

        Args:
          store: at one moment.
          folder: local.

        Raises:
          UsageError: when usearch is not installed, and when a file of the index is damaged.
        """
        kind, digest, at = _kind(), moment_digest(store), _local(folder)
        if not (at / _INDEX).is_file():
            return None
        try:
            record = json.loads((at / _INDEX).read_text())
            if record["rows"] != digest:
                return None
            standard = Standard(*(np.array(record[n], np.float32) for n in ("mean", "deviation")))
            graph = kind.restore(str(at / f"{digest}.usearch"), view=True)
            rows = pq.ParquetFile(at / f"{digest}.parquet")
            return cls(rows, graph, standard, store.spec.is_pixels)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pa.ArrowException) as error:
            raise UsageError(
                f"--index: the index in {folder!r} is damaged ({cause(error)}); delete the folder, "
                "and the same command makes it anew"
            ) from error

    @classmethod
    def make(cls, store: FeatureStore, folder: str) -> StoreIndex:
        """Makes an index of a store in a folder, and deletes an older one there.

        Args:
          store: at one moment.
          folder: local; it may be new.

        Raises:
          UsageError: for a store without rows, when usearch is not installed, and when the folder
            cannot be written.
        """
        kind, digest, at = _kind(), moment_digest(store), _local(folder)
        standard = store_standard(store)
        try:
            at.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=at) as unfinished:
                rows, vectors = Path(unfinished, "rows"), Path(unfinished, "vectors")
                _write_rows(store, standard, kind, (rows, vectors))
                os.replace(rows, at / f"{digest}.parquet")
                os.replace(vectors, at / f"{digest}.usearch")
                record = {"rows": digest, "store": store.url}
                record |= {name: values.tolist() for name, values in vars(standard).items()}
                Path(unfinished, _INDEX).write_text(json.dumps(record))
                os.replace(Path(unfinished, _INDEX), at / _INDEX)
            for old in (*at.glob("*.usearch"), *at.glob("*.parquet")):
                if old.stem != digest:
                    old.unlink()
        except OSError as error:
            raise UsageError(f"--index: cannot write {folder!r}: {cause(error)}") from error
        made = cls.open(store, folder)
        assert made is not None
        return made

    def search(
        self,
        features: np.ndarray,
        most: int,
        labels: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> list[Match]:
        """Returns rows that are nearest, nearest first; see `classifier.auditing.search.search`.

        Args:
          features: (1, \\*feature_shape) of an image, as the store would hold them.
          most: how many are wanted.
          labels: only images with one of these; None for all.
          splits: only images of these splits; None for all.
        """
        wanted = directions_of(features, self.standard, self.is_pixels)[0]
        count = most
        while True:
            count = min(count, len(self.graph))
            near = self.graph.search(wanted, count)
            found = [
                Match(1 - float(distance), columns)
                for distance, columns in zip(near.distances, self._columns(near.keys), strict=True)
                if (labels is None or {*labels} & {*columns["labels"]})
                and (splits is None or columns["split"] in splits)
            ]
            if len(found) >= most or count == len(self.graph):
                return found[:most]
            # Too many of them have other labels or splits.
            count *= 4

    def _columns(self, numbers: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields the columns of rows, by number; reads each row group once."""
        metadata = self.rows.metadata
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, numbers, side="right")
        tables = {group: self.rows.read_row_group(group) for group in np.unique(groups).tolist()}
        for number, group in zip(numbers.tolist(), groups.tolist(), strict=True):
            row = number - (ends[group] - sizes[group])
            yield tables[group].slice(row, 1).to_pylist()[0]


def _write_rows(
    store: FeatureStore, standard: Standard, kind: Any, paths: tuple[Path, Path]
) -> None:
    """Writes the columns and the vectors of a store's rows into two files."""
    graph = kind(ndim=len(standard.mean), metric="cos", dtype=_DTYPE)
    with pq.ParquetWriter(paths[0], _SCHEMA) as writer:
        for batch in store.scan((*COLUMNS, "features"), views=[0]):
            vectors = directions_of(batch.pop("features"), standard, store.spec.is_pixels)
            graph.add(np.arange(len(graph), len(graph) + len(vectors)), vectors)
            writer.write_table(pa.table({f.name: batch[f.name].tolist() for f in _SCHEMA}, _SCHEMA))
    graph.save(str(paths[1]))


def _local(folder: str) -> Path:
    if is_address(folder):
        raise UsageError(
            f"--index must be a local folder, got {folder!r}; usearch maps its file into memory"
        )
    return Path(folder)


def _kind() -> Any:
    """Imports usearch's `Index`."""
    try:
        from usearch.index import Index
    except ImportError as error:
        raise UsageError(
            "--index needs usearch, which is not installed: pip install 'hoarfrost[search]'; "
            "without --index the search is exact, and reads all features"
        ) from error
    return Index
