"""Exports embeddings in clip-retrieval's layout: ``img_emb/*.npy`` and ``metadata/*.parquet``.

embedding-reader, which autofaiss uses, sorts the files of both folders by name and pairs them one
by one. So all numbers in file names have the same width, and row i of a .npy file belongs to row i
of its Parquet file. It reads shape and dtype from the first line of the .npy header.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import CorruptStore, RunFailed, UsageError, cannot_write, unknown_choice
from featurestore.io.places import relation
from featurestore.io.storage import Storage
from featurestore.reading.rows import Columns
from featurestore.schema import FEATURES
from featurestore.store import FeatureStore

EXPORT_DTYPES = ("float16", "float32")
METADATA_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("split", pa.string()),
        pa.field("content_hash", pa.string()),
        pa.field("view", pa.int8()),
    ]
)
FOLDERS = {"img_emb": "npy", "metadata": "parquet"}


@dataclass(frozen=True)
class ExportOptions:
    """Which rows to export, and in which form.

    Attributes:
      splits: export rows of these splits; None means all rows.
      views: export these views; by default the unaugmented images only, None means all.
      rows_per_file: the most rows in one file.
      dtype: of the .npy files; "" keeps the store's.
      flatten: write each map as one vector instead of refusing maps.
    """

    splits: tuple[str, ...] | None = None
    views: tuple[int, ...] | None = (0,)
    rows_per_file: int = 1_000_000
    dtype: str = ""
    flatten: bool = False

    def __post_init__(self) -> None:
        if self.rows_per_file < 1:
            raise UsageError(f"--rows_per_file must be at least 1, got {self.rows_per_file}")
        if self.dtype and self.dtype not in EXPORT_DTYPES:
            raise unknown_choice("--dtype", self.dtype, EXPORT_DTYPES)


def export(store: FeatureStore, output: Storage, options: ExportOptions) -> dict[str, Any]:
    """Writes rows to .npy and Parquet files, with one row group in memory at a time.

    Each file is written to local disk, then published whole.

    Args:
      store: an open store.
      output: a folder without an earlier export.
      options: which rows, and in which form.

    Returns:
      JSON-ready facts: output, rows, files, dtype, dimension, splits, views, identity_hash.

    Raises:
      UsageError: for maps without `flatten`, an unknown split, or an output that is not empty.
      RunFailed: when a finite value does not fit the dtype, or the store changes meanwhile.
    """
    store, spec = store.at_this_moment(), store.spec
    _require_exportable(store, output, options)
    dtype = options.dtype or spec.dtype
    rows = _count(store, options)
    files = -(-rows // options.rows_per_file)
    # In a local output the drafts lie beside their place, so that publishing is a rename.
    with output.workspace(f".export-{uuid.uuid4().hex[:8]}") as folder:
        writer = _Writer(output, folder, (dtype, spec.feature_size), len(str(files - 1)))
        columns = (*METADATA_SCHEMA.names, FEATURES)
        for batch in store.scan(columns, splits=options.splits, views=options.views):
            writer.write(batch, options.rows_per_file)
        writer.finish()
    if writer.total != rows:
        raise RunFailed(
            f"the store changed during the export ({rows} rows at the start, {writer.total} at the "
            f"end): delete {output.public_url} and export again when no run is active"
        )
    facts = {
        "store": store.url,
        "output": output.public_url,
        "rows": writer.total,
        "files": files,
        "dimension": spec.feature_size,
        "dtype": dtype,
        "splits": list(options.splits) if options.splits else None,
        "views": list(options.views) if options.views else None,
        "identity_hash": spec.identity_hash,
    }
    output.write("summary.json", json.dumps(facts, indent=2) + "\n")
    return facts


def _require_exportable(store: FeatureStore, output: Storage, options: ExportOptions) -> None:
    spec = store.spec
    if spec.is_map and not options.flatten:
        shape = "x".join(map(str, spec.feature_shape))
        raise UsageError(
            f"this store holds maps of {shape}, but .npy embeddings are vectors: --flatten writes "
            f"{spec.feature_size:,} values per row"
            + ("" if spec.is_pixels else "; or extract with --pooling avg")
        )
    for split in options.splits or ():
        store.require_split(split)
    if found := relation(output.url, store.storage.url, output.options):
        if found != "contains":
            raise UsageError(
                f"--output: {output.public_url!r} {found} the feature store itself, and an export "
                "must not mix its files with the store's; choose a folder beside it"
            )
    _require_empty(output)


def _require_empty(output: Storage) -> None:
    for folder, suffix in FOLDERS.items():
        try:
            files = output.list(folder)
            if not files and output.is_local:
                os.makedirs(output.path(folder), exist_ok=True)
        except (OSError, ValueError) as error:
            fix = "choose another folder"
            raise cannot_write("--output", output.public_url, error, fix) from error
        if any(file.name.endswith(f".{suffix}") for file in files):
            raise UsageError(
                f"--output: {output.public_url}/{folder} holds an export already, and readers read "
                "every file in it; choose another folder, or delete that one"
            )


def _count(store: FeatureStore, options: ExportOptions) -> int:
    batches = store.scan(["view"], splits=options.splits, views=options.views, batch_size=8192)
    rows = sum(len(batch["view"]) for batch in batches)
    if not rows:
        raise UsageError(f"nothing to export: {store.url} has no row of these splits and views")
    return rows


class _Writer:
    """Divides rows into pairs of files, and publishes each pair when it is full."""

    def __init__(self, output: Storage, folder: Path, row: tuple[str, int], digits: int) -> None:
        self.total = 0
        self._output, self._folder, self._digits = output, folder, digits
        self._dtype, self._dimension = np.dtype(row[0]).newbyteorder("<"), row[1]
        self._number = self._rows = 0
        self._array: BinaryIO | None = None
        self._metadata: pq.ParquetWriter | None = None

    def write(self, batch: Columns, rows_per_file: int) -> None:
        start, count = 0, len(batch[FEATURES])
        while start < count:
            stop = min(count, start + rows_per_file - self._rows)
            self._append({name: values[start:stop] for name, values in batch.items()})
            if self._rows == rows_per_file:
                self.finish()
            start = stop

    def _append(self, batch: Columns) -> None:
        if self._array is None or self._metadata is None:
            self._array = open(self._folder / "img_emb", "w+b")
            self._write_header()
            self._metadata = pq.ParquetWriter(self._folder / "metadata", METADATA_SCHEMA)
        features = batch[FEATURES].reshape(len(batch[FEATURES]), -1)
        self._array.write(np.ascontiguousarray(self._cast(features)).data)
        arrays = [pa.array(batch[field.name].tolist(), field.type) for field in METADATA_SCHEMA]
        self._metadata.write_table(pa.Table.from_arrays(arrays, schema=METADATA_SCHEMA))
        self._rows += len(features)
        self.total += len(features)

    def _cast(self, features: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            cast = features.astype(self._dtype, copy=False)
        if not np.isfinite(cast).all():
            if np.isfinite(features).all():
                raise RunFailed("a value is beyond float16's largest, 65504; use --dtype float32")
            raise CorruptStore("stored features hold NaN or infinity; run featurestore verify")
        return cast

    def _write_header(self) -> None:
        assert self._array is not None
        self._array.seek(0)
        # NumPy pads the header so that the number of rows can grow when it is rewritten.
        header = {
            "descr": self._dtype.str,
            "fortran_order": False,
            "shape": (self._rows, self._dimension),
        }
        np.lib.format.write_array_header_1_0(self._array, header)

    def finish(self) -> None:
        """Completes and publishes the current pair of files, if there is one."""
        if self._array is None or self._metadata is None:
            return
        self._metadata.close()
        start = self._array.tell() - self._rows * self._dimension * self._dtype.itemsize
        self._write_header()
        assert self._array.tell() == start, "NumPy's header does not keep its length"
        self._array.close()
        for name, suffix in FOLDERS.items():
            target = f"{name}/{name}_{self._number:0{self._digits}d}.{suffix}"
            self._output.publish(self._folder / name, target)
        self._array = self._metadata = None
        self._number, self._rows = self._number + 1, 0
