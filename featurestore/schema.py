"""The Arrow schema of parts and quarantine files, and the conversion of features to and from Arrow.

Embeddings are lists of float32, so that any Parquet reader understands them. Maps are fixed-size
binary in C order, which reads and writes four to five times faster than lists; the field's metadata
holds their shape and dtype. Both types have a fixed size: variable-size types have 32-bit offsets,
which overflow at about 167,000 (list) or 83,000 (binary) maps of (5, 5, 512).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.errors import CorruptStore, RunFailed
from featurestore.spec import StoreSpec
from featurestore.taps import columns_of, divided, joined

FEATURES = "features"
_INPUT_FIELDS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("etag", pa.string(), nullable=False),
)
META_FIELDS = (
    *_INPUT_FIELDS,
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("labels", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
    pa.field("split", pa.string()),
    pa.field("view", pa.int8(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
)
ROW_COLUMNS = (*(field.name for field in META_FIELDS), FEATURES)
QUARANTINE_SCHEMA = pa.schema(
    [
        *_INPUT_FIELDS,
        pa.field("kind", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


def feature_field(spec: StoreSpec) -> pa.Field:
    """Returns the Arrow field of a column of features."""
    metadata = {"shape": json.dumps(list(spec.feature_shape)), "dtype": spec.dtype}
    if spec.is_map:
        kind: pa.DataType = pa.binary(spec.feature_bytes)
    else:
        kind = pa.list_(pa.field("element", pa.float32(), nullable=False), spec.feature_size)
    return pa.field(spec.column, kind, nullable=False, metadata=metadata)


def feature_fields(spec: StoreSpec) -> list[pa.Field]:
    """Returns the Arrow fields of the columns of features: one, or one for each tap."""
    return [feature_field(each) for each in columns_of(spec)]


def row_schema(spec: StoreSpec) -> pa.Schema:
    """Returns the schema of a part."""
    return pa.schema(
        [*META_FIELDS, *feature_fields(spec)], metadata={"hoarfrost_identity": spec.identity_hash}
    )


def encode_features(features: np.ndarray, spec: StoreSpec) -> pa.Array:
    """Converts computed features to the stored column.

    Args:
      features: finite float32 (n, *spec.feature_shape), or uint8 pixels.
      spec: of the store.

    Returns:
      An Arrow array of n rows.

    Raises:
      RunFailed: when a finite value does not fit the stored dtype.
    """
    count = len(features)
    flat = np.ascontiguousarray(features, dtype=spec.computed_dtype)
    flat = flat.reshape(count, spec.feature_size)
    if spec.dtype == "float16":
        largest = float(np.abs(flat).max(initial=0.0))
        # 65520 is where float16's round-to-nearest becomes infinity (IEEE 754, binary16).
        if largest >= 65520.0:
            raise RunFailed(
                f"a feature value of {largest:.6g} is beyond float16's largest, 65504; extract "
                "into a new store with --dtype float32"
            )
        flat = flat.astype(np.float16)
    if spec.is_map:
        return pa.Array.from_buffers(
            pa.binary(spec.feature_bytes), count, [None, pa.py_buffer(np.ascontiguousarray(flat))]
        )
    values = pa.array(flat.astype(np.float32, copy=False).ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, type=feature_field(spec).type)


def decode_features(column: pa.Array, spec: StoreSpec) -> np.ndarray:
    """Converts a stored column to an array without copying it.

    Args:
      column: of type `feature_field(spec).type`.
      spec: of the store.

    Returns:
      float32 (n, d) for embeddings; float16 or float32 (n, *shape) for maps; uint8 (n, *shape)
      for pixels. Read-only.

    Raises:
      CorruptStore: when the column has another type.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.type != feature_field(spec).type:
        raise CorruptStore(
            f"features are stored as {column.type}, the spec says {feature_field(spec).type}; run "
            "python -m featurestore verify"
        )
    shape = (len(column), *spec.feature_shape)
    if not spec.is_map:
        return column.flatten().to_numpy(zero_copy_only=True).reshape(shape)
    if not len(column):
        return np.empty(shape, spec.dtype)
    start = column.offset * spec.feature_bytes
    stop = start + len(column) * spec.feature_bytes
    return np.frombuffer(column.buffers()[1][start:stop], dtype=spec.dtype).reshape(shape)


def row_table(rows: Sequence[Mapping[str, Any]], features: np.ndarray, spec: StoreSpec) -> pa.Table:
    """Returns rows as a table of a part.

    Args:
      rows: one mapping per row, from the names of `META_FIELDS` to values.
      features: as in `encode_features`.
      spec: of the store.
    """
    columns: list[pa.Array] = [
        pa.array([row[field.name] for row in rows], field.type) for field in META_FIELDS
    ]
    columns.extend(encode_columns(features, spec))
    return pa.Table.from_arrays(columns, schema=row_schema(spec))


def encode_columns(features: np.ndarray, spec: StoreSpec) -> list[pa.Array]:
    """Converts computed features to the stored columns: one, or one for each tap."""
    parts = divided(spec.base.taps, features)
    return [encode_features(*each) for each in zip(parts, columns_of(spec), strict=True)]


def decode_columns(table: pa.Table | pa.RecordBatch, spec: StoreSpec) -> np.ndarray:
    """Converts the stored columns of features to an array; those of several taps are joined.

    Args:
      table: with the columns of `feature_fields`.
      spec: of the store.

    Returns:
      As `decode_features`; of several taps float32 (n, sum of their sizes).
    """
    parts = [decode_features(table.column(each.column), each) for each in columns_of(spec)]
    return joined(parts) if spec.base.taps else parts[0]
