"""Reads rows of small tables (CSV or Parquet) on any file system: image lists and label tables."""

from __future__ import annotations

import csv
import io
import itertools
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.cli.absent import pandas_for
from featurestore.errors import UsageError
from featurestore.io.retry import retrying
from featurestore.io.storage import connect, public_url
from featurestore.labels.cells import text_of
from featurestore.labels.columns import is_unnamed

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t"}
# Spreadsheets write these instead, where a comma stands in decimals.
_FURTHER_DELIMITERS = ";\t|,"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
Row = Mapping[str, Any]


@contextmanager
def open_table(
    url: str, flag: str, storage_options: Mapping[str, Any] | None = None
) -> Iterator[tuple[Sequence[str], Iterator[Row]]]:
    """Opens a table, whose rows are then streamed.

    Args:
      url: of a ``.parquet`` file, or of a CSV with a header line.
      flag: the flag that gave the table, for messages.
      storage_options: for the file system.

    Yields:
      (column names, rows). Values are texts in a CSV and of any type in Parquet;
      `featurestore.labels.cells` converts both. A named pandas index is the first column.

    Raises:
      UsageError: when the table cannot be read, has no header, or has a row that is longer than the
        header.
    """
    fs, path = connect(url, storage_options, flag)
    shown = public_url(url)
    try:
        with retrying(lambda: fs.open(path, "rb")) as file:
            if path.lower().endswith(".parquet"):
                with pq.ParquetFile(file, pre_buffer=False) as table:
                    yield _names(table.schema_arrow), _parquet_rows(table)
                return
            text = io.TextIOWrapper(file, encoding=_encoding(file), newline="")
            header = text.readline()
            usual = TEXT_SUFFIXES.get(posixpath.splitext(path)[1].lower(), ",")
            lines = itertools.chain([header], text)
            reader = csv.DictReader(lines, delimiter=_delimiter(header, usual))
            names = [text_of(name) for name in reader.fieldnames or ()]
            if not any(names):
                raise UsageError(
                    f"{flag}: {shown!r} is empty; its first line must name the columns"
                )
            reader.fieldnames = names
            yield names, _text_rows(reader, f"{flag}: {shown!r}")
            # Without this, the wrapper would close the file a second time.
            text.detach()
    except UnicodeDecodeError as error:
        found = f"has the byte {error.object[error.start]:#04x}"
        raise UsageError(
            f"{flag}: {shown!r} must be in UTF-8, but {found}; save it as UTF-8"
        ) from error
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise UsageError(f"{flag}: cannot read {shown!r}: {error}") from error


def _encoding(file: IO[bytes]) -> str:
    """Returns UTF-16 for a file that begins with its mark, as Excel writes it, or UTF-8."""
    mark = file.read(2)
    file.seek(0)
    return "utf-16" if mark in _UTF_16 else "utf-8-sig"


def _delimiter(header: str, usual: str) -> str:
    """Returns the usual delimiter, or that of a header that has only another one.

    Example:
      >>> _delimiter("id;label", ","), _delimiter("id,a;b", ","), _delimiter("id", ",")
      (';', ',', ',')
    """
    if usual in header:
        return usual
    return next((other for other in _FURTHER_DELIMITERS if other in header), usual)


def _text_rows(reader: csv.DictReader[str], where: str) -> Iterator[Row]:
    """Yields rows; refuses one longer than the header, whose cells would be in wrong columns."""
    for row in reader:
        # The reader stores surplus cells under None.
        further: Any = row.get(None)
        if further and any(map(text_of, further)):
            names = reader.fieldnames or ()
            raise UsageError(
                f"{where}: line {reader.line_num} has {len(names) + len(further)} cells, but the "
                f"header names {len(names)} columns; name every column (an index too), and quote "
                "cells that contain the delimiter"
            )
        yield row


def _names(schema: pa.Schema) -> list[str]:
    """Returns the column names; a pandas index, which is last in the file, comes first."""
    try:
        index = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError):
        index = []
    names = schema.names
    first = [name for name in index if isinstance(name, str) and names.count(name) == 1]
    first = [name for name in first if not is_unnamed(name)]
    return [*first, *(name for name in names if name not in first)]


def _parquet_rows(table: pq.ParquetFile) -> Iterator[Row]:
    pandas_for(table.schema_arrow)
    for batch in table.iter_batches(4096, use_threads=False):
        yield from batch.to_pylist()
