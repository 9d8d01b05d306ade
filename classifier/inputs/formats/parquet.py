"""Streams images from Parquet files: plain bytes, or the {bytes, path} of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifier.inputs.columns import Asked, Columns, find_columns, holds_bytes, image_columns
from classifier.inputs.formats.members import is_damage
from classifier.inputs.refs import (
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    UniqueNames,
    too_large,
)
from featurestore.cli.absent import pandas_for
from featurestore.errors import UsageError, one_line
from featurestore.ignored import Ignored
from featurestore.io.steady import SteadyFile
from featurestore.io.storage import connect
from featurestore.labels.cells import labels_of
from featurestore.labels.splits import split_in_cell
from featurestore.labels.table import member_name

BATCH_ROWS = 64
# The images held at once; in a dictionary column many rows may share a large one.
_BATCH_BYTES = 1 << 28


def iter_parquet(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    """Yields the images of a Parquet file, a few rows at a time; page checksums are verified.

    Yields:
      As `classifier.inputs.shards.iter_shard`, with an OSError for a row without bytes. The key is
      ``<shard>/<path>`` where the row has one that is unique, else the row's number.

    Raises:
      ShardDamaged: at once for a file that lacks its end, or that holds images in another shape
        than one a row; for row groups that cannot be read, after all others were.
    """
    with _open(shard, storage_options) as file:
        try:
            columns = find_columns(file.schema_arrow, Asked.of(shard.etag))
        except UsageError as error:
            raise ShardDamaged(str(error)) from error
        if columns is None:
            if reason := _other_shape(file.schema_arrow):
                raise ShardDamaged(reason)
            ignored.add(shard.key)
            return
        columns.note_unlabelled(shard.key, ignored)
        yield from _rows(shard, file, columns)


@contextmanager
def _open(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> Iterator[pq.ParquetFile]:
    fs, path = connect(shard.uri, storage_options)
    with SteadyFile(fs, path) as handle:
        try:
            file = pq.ParquetFile(handle, pre_buffer=False, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            if not _is_damage(error):
                raise
            where = handle.seek(0, 2)
            raise ShardDamaged(
                f"the end of the Parquet file cannot be read: {one_line(error, 300)}", where
            ) from error
        with file:
            yield file


def parquet_columns(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> str:
    """Returns one line about the columns that are read of a Parquet file; "" without images.

    Raises:
      UsageError: for a column that the user named and that the file does not have.
      OSError, ShardDamaged: when the file cannot be read.
    """
    with _open(shard, storage_options) as file:
        columns = find_columns(file.schema_arrow, Asked.of(shard.etag))
        if columns:
            return columns.describe(shard.key)
        several = image_columns(file.schema_arrow)
    if len(several) < 2:
        return ""
    return f"{shard.key}: no images: name one of {', '.join(several)} by --image_column"


def _rows(
    shard: ShardRef, file: pq.ParquetFile, columns: Columns
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    pandas_for(file.schema_arrow)
    names, first, damage = UniqueNames(), 0, None
    for group in range(file.num_row_groups):
        try:
            yield from _group(shard, file, columns, (group, first, names))
        except (pa.ArrowException, OSError) as error:
            if not _is_damage(error):
                raise
            damage = damage or ShardDamaged(
                f"row group {group} of {file.num_row_groups} is damaged: {one_line(error, 300)}",
                _offset(file.metadata.row_group(group)),
            )
        first += file.metadata.row_group(group).num_rows
    if damage:
        raise damage


def _group(
    shard: ShardRef, file: pq.ParquetFile, columns: Columns, place: tuple[int, int, UniqueNames]
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    group, number, names = place
    rows = _rows_at_once(file.metadata.row_group(group), columns.image)
    batches = file.iter_batches(rows, row_groups=[group], columns=columns.read, use_threads=False)
    for batch in batches:
        for row in batch.to_pylist():
            data, name = _content(row[columns.image])
            name = member_name(name or (row.get(columns.name) if columns.name else "") or "")
            labels = labels_of(row.get(columns.label), columns.class_names)
            split = split_in_cell(row.get(columns.split))
            yield shard.image(names.claim(name, str(number)), data, labels, split), data
            number += 1


def _rows_at_once(group: Any, image: str) -> int:
    """Returns how many rows fit into memory if each is as large as the whole column."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if f"{chunk.path_in_schema}.".startswith(f"{image}.")
    )
    return max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, size)))


def _content(value: Any) -> tuple[bytes | OSError, str]:
    name = ""
    if isinstance(value, Mapping):
        name, value = value.get("path") or "", value.get("bytes")
    if value is None:
        return OSError(
            "the row has no image bytes" + (f", only the path {name!r}" * bool(name))
        ), name
    return (value if len(value) <= MAX_MEMBER_BYTES else too_large(len(value))), name


def _is_damage(error: Exception) -> bool:
    return isinstance(error, pa.ArrowException) or is_damage(error)


def _offset(group: Any) -> int:
    starts: list[int] = []
    for index in range(group.num_columns):
        column = group.column(index)
        starts += [column.dictionary_page_offset or column.data_page_offset]
    return min(starts, default=0)


def _other_shape(schema: pa.Schema) -> str:
    """Explains how a table without one image column holds images; "" where it holds none.

    Example:
      >>> _other_shape(pa.schema([("images", pa.list_(pa.binary()))]))
      "no image in it: the column 'images' holds a list of images per row; write one image per row"
      >>> _other_shape(pa.schema([("id", pa.int64())]))
      ''
    """
    single = image_columns(schema)
    if single:
        return (
            f"no image in it: any of the columns {', '.join(map(repr, single))} could hold them; "
            "name one by --image_column"
        )
    lists = [field.name for field in schema if _holds_lists(field.type)]
    if lists:
        return (
            f"no image in it: the column {lists[0]!r} holds a list of images per row; write one "
            "image per row"
        )
    return ""


def _holds_lists(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind):
        return holds_bytes(kind.item_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        return holds_bytes(kind.value_type) or _holds_lists(kind.value_type)
    return False
