"""Rows of small tables, CSV or Parquet, on any file system: lists of images and of labels."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import UsageError, unknown_choice
from featurestore.retry import retrying
from featurestore.storage import connect, public_url

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t"}
Row = Mapping[str, Any]


@contextmanager
def open_table(
    url: str, flag: str, storage_options: Mapping[str, Any] | None = None
) -> Iterator[tuple[Sequence[str], Iterator[Row]]]:
    """Opens a table; what is read later streams.

    Args:
      url: of a ``.parquet`` file, or of a CSV with a header line.
      flag: what the user called it, for messages.
      storage_options: for its file system.

    Yields:
      (column names, rows): values are text in a CSV, of their own type in Parquet.

    Raises:
      UsageError: when it cannot be read or has no header.
    """
    fs, path = connect(url, storage_options, flag)
    shown = public_url(url)
    try:
        with retrying(lambda: fs.open(path, "rb")) as file:
            if path.lower().endswith(".parquet"):
                with pq.ParquetFile(file, pre_buffer=False) as table:
                    yield table.schema_arrow.names, _parquet_rows(table)
                return
            delimiter = TEXT_SUFFIXES.get(posixpath.splitext(path)[1].lower(), ",")
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.DictReader(text, delimiter=delimiter)
            names = [name.strip() for name in reader.fieldnames or ()]
            if not names:
                raise UsageError(
                    f"{flag}: {shown!r} is empty; its first line must name the columns"
                )
            reader.fieldnames = names
            yield names, reader
            # Closing the wrapper would close the file twice.
            text.detach()
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{flag}: cannot read {shown!r}: {error}") from error


def _parquet_rows(table: pq.ParquetFile) -> Iterator[Row]:
    for batch in table.iter_batches(4096, use_threads=False):
        yield from batch.to_pylist()


def choose_column(wanted: str, flag: str, names: Sequence[str], default: str) -> str:
    """Returns the column to use.

    Args:
      wanted: by the user, or "".
      flag: that names it.
      names: that are there.
      default: when none is wanted.

    Raises:
      UsageError: for a name that is not there.
    """
    if wanted and wanted not in names:
        raise unknown_choice(flag, wanted, names)
    return wanted or default
