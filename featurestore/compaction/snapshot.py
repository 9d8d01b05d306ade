"""Writes what a store holds now as plain Parquet files, for programs without this package.

Superseded rows are left out, and labels and splits are the newest. So the files of the folder are
one table, which DuckDB, Polars, Spark and Iceberg's ``add_files`` read as they are.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from featurestore.arrow.stream import rows_table
from featurestore.errors import UsageError, cannot_write
from featurestore.io.places import relation
from featurestore.io.storage import Storage
from featurestore.schema import ROW_COLUMNS, row_schema
from featurestore.store import FeatureStore
from featurestore.writer import ParquetFile, part_settings

FACTS = "_snapshot.json"  # readers of Parquet folders skip names that begin with an underscore


def snapshot(
    store: FeatureStore, output: Storage, rows_per_file: int = 1_000_000
) -> dict[str, Any]:
    """Writes all rows that count to ``part-000000.parquet`` and so on.

    Args:
      store: an open store.
      output: an empty folder.
      rows_per_file: the most rows in one file.

    Returns:
      JSON-ready facts, which ``_snapshot.json`` holds too; it is written last.

    Raises:
      UsageError: when `output` lies in the store or holds Parquet files.
    """
    if rows_per_file < 1:
        raise UsageError(f"--rows_per_file must be at least 1, got {rows_per_file}")
    # All taps of a store, unless one was chosen.
    store = store.at_this_moment().tap_of(store.spec.base)
    _require_empty(store, output)
    rows = files = 0
    batches = store.scan(ROW_COLUMNS)
    with output.workspace(f".snapshot-{uuid.uuid4().hex[:8]}") as folder:
        batch = next(batches, None)
        while batch is not None:
            path = folder / "part"
            settings = part_settings(store.spec)
            with ParquetFile(path, row_schema(store.spec), **settings) as writer:
                count = 0
                while batch is not None and count < rows_per_file:
                    table = rows_table(batch, store.spec).slice(0, rows_per_file - count)
                    writer.write_table(table)
                    count += table.num_rows
                    rest = {name: values[table.num_rows :] for name, values in batch.items()}
                    batch = rest if len(rest["key"]) else next(batches, None)
                writer.finish()
            output.publish(path, f"part-{files:06d}.parquet")
            rows, files = rows + count, files + 1
    facts = {
        "store": store.url,
        "output": output.public_url,
        "rows": rows,
        "files": files,
        "identity_hash": store.spec.identity_hash,
        "label_versions": store.label_versions(),
    }
    output.write(FACTS, json.dumps(facts, indent=2) + "\n")
    return facts


def _require_empty(store: FeatureStore, output: Storage) -> None:
    if found := relation(output.url, store.storage.url, output.options):
        if found != "contains":
            raise UsageError(
                f"--output: {output.public_url!r} {found} the feature store itself; choose a "
                "folder beside it"
            )
    try:
        names = [file.name for file in output.list("")]
    except (OSError, ValueError) as error:
        fix = "choose another folder"
        raise cannot_write("--output", output.public_url, error, fix) from error
    if names:
        raise UsageError(
            f"--output: {output.public_url} is not empty (it holds {names[0]!r}), and readers read "
            "every file of a folder; choose another one"
        )
