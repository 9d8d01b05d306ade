"""Queries a store of embeddings in SQL: what is in it, and which images are alike.

python examples/to_duckdb.py STORE

DuckDB also reads STORE/parts/*.parquet by itself, but the bare parts are what was written first:
rows that a later run superseded are in them, and labels that came later are not. A scan has both
applied.
"""

import sys
from collections.abc import Iterator

import duckdb
import pyarrow as pa

from featurestore import FeatureStore, open_store


def reader(store: FeatureStore) -> pa.RecordBatchReader:
    """Returns the store's rows as a stream of Arrow record batches."""
    schema = pa.schema(
        {
            "key": pa.string(),
            "split": pa.string(),
            "labels": pa.list_(pa.string()),
            "features": pa.list_(pa.float32(), store.spec.feature_shape[0]),
        }
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in store.scan(schema.names, views=[0]):
            columns = {name: list(batch[name]) for name in schema.names}
            yield pa.RecordBatch.from_pydict(columns, schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def main() -> None:
    """Prints rows by split and label, and the nearest neighbours of the first image."""
    store = open_store(sys.argv[1])
    database = duckdb.connect()
    database.register("stored", reader(store))
    # A stream is read once, so it becomes a table first.
    database.execute("CREATE TABLE images AS SELECT * FROM stored")
    counts = database.execute(
        "SELECT split, labels[1] AS label, count(*) FROM images GROUP BY ALL ORDER BY ALL"
    )
    for split, label, count in counts.fetchall():
        print(f"{split or 'no split':<12} {label or 'no label':<12} {count:>8,}")
    alike = database.execute(
        """
        SELECT other.key, array_cosine_similarity(other.features, this.features) AS similarity
        FROM images AS other, (SELECT * FROM images ORDER BY key LIMIT 1) AS this
        WHERE other.key <> this.key
        ORDER BY similarity DESC LIMIT 3
        """
    )
    for key, similarity in alike.fetchall():
        print(f"{similarity:.3f} {key}")


if __name__ == "__main__":
    main()
