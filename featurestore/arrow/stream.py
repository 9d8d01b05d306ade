"""What counts in a store as a stream of Arrow batches: no superseded rows, the newest labels."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from featurestore.reading.rows import Columns
from featurestore.schema import FEATURES, META_FIELDS, ROW_COLUMNS, encode_columns, row_schema
from featurestore.spec import StoreSpec
from featurestore.store import FeatureStore


def arrow_reader(
    store: FeatureStore,
    *,
    splits: Sequence[str | None] | None = None,
    labels: Sequence[str] | None = None,
    views: Sequence[int] | None = None,
) -> pa.RecordBatchReader:
    """Streams a store's rows, with the columns and types of its parts.

    DuckDB, Polars, Lance, Delta Lake and others take such a reader as it is. It can be read once,
    in bounded memory.

    Args:
      store: to read, as it is when the first batch is asked for.
      splits: keep rows of these splits, as in `FeatureStore.scan`.
      labels: keep rows with at least one of these labels.
      views: keep these views; None keeps all.
    """
    # All taps of a store, unless one was chosen.
    store = store.tap_of(store.spec.base)
    schema = row_schema(store.spec)
    rows = store.scan(ROW_COLUMNS, splits=splits, labels=labels, views=views)
    batches = (batch for each in rows for batch in rows_table(each, store.spec).to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


def rows_table(rows: Columns, spec: StoreSpec) -> pa.Table:
    """Returns rows that `FeatureStore.scan` gave as a table of the form of a part.

    Args:
      rows: with all columns.
      spec: of the store.
    """
    arrays = [pa.array(rows[field.name].tolist(), field.type) for field in META_FIELDS]
    arrays.extend(encode_columns(rows[FEATURES], spec))
    return pa.Table.from_arrays(arrays, schema=row_schema(spec))
