"""Decodes the embeddings of a part without their levels, which is faster than Arrow's reader.

Embeddings are lists of one length in byte-stream split pages that zstd has compressed. Parquet
keeps a level for every number, to say where its list begins. Arrow decodes all of them, which
takes as long as decompressing the numbers; but in a list of known length they say nothing. Arrow
reads chunks of any other form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.reading.pages import varint, zigzag

# Enums of parquet.thrift: PageType, Encoding.
_DATA_PAGE, _BYTE_STREAM_SPLIT = 0, 9
_PLANES = 4  # bytes of a float32
# What Parquet adds to the name of a column of lists; older releases of Arrow write the second one.
_NESTED = (".list.element", ".list.item")
# Numbers that are joined at once, so that they stay in a core's cache.
_BLOCK = 1 << 16


def split_lists(
    path: str, metadata: pq.FileMetaData, group: int, name: str, length: int
) -> np.ndarray | None:
    """Decodes a column of lists of float32.

    Args:
      path: of a local Parquet file.
      metadata: its footer.
      group: number of the row group.
      name: of the column of lists.
      length: of every list, as the type of the column says.

    Returns:
      float32 (n, length), read-only, or None when the column has another form or is damaged.
    """
    footer = metadata.row_group(group)
    chunks = map(footer.column, range(metadata.num_columns))
    # A dot may also be part of the name of another column.
    paths = [name + end for end in _NESTED]
    column = next((chunk for chunk in chunks if chunk.path_in_schema in paths), None)
    count = footer.num_rows * length
    if column is None or column.compression != "ZSTD" or column.has_dictionary_page:
        return None
    if set(column.encodings) != {"RLE", "BYTE_STREAM_SPLIT"} or column.num_values != count:
        return None
    with pa.memory_map(path) as file:
        file.seek(column.data_page_offset)
        chunk = file.read_buffer(column.total_compressed_size)
    # Arrow's memory, because NumPy's would go back to the system after each row group.
    values = np.frombuffer(pa.allocate_buffer(count * _PLANES), np.uint32)
    try:
        whole = _join_pages(chunk, values)
    except (IndexError, KeyError, ValueError, OSError, RecursionError):
        # Damaged: Arrow says in what way.
        return None
    if not whole:
        return None
    values.flags.writeable = False
    return values.view(np.float32).reshape(-1, length)


def _join_pages(chunk: pa.Buffer, values: np.ndarray) -> bool:
    """Decodes all pages of a chunk into uint32 (n,); returns whether they are of the known form."""
    codec, data = pa.Codec("zstd"), memoryview(chunk).cast("B")
    at = done = 0
    while at < len(data):
        header, at = _struct(data, at)
        kind, size, compressed = header[1], header[2], header[3]
        page = header.get(5, {})
        if kind != _DATA_PAGE or page.get(2) != _BYTE_STREAM_SPLIT:
            return False
        body = np.frombuffer(codec.decompress(chunk.slice(at, compressed), size), np.uint8)
        count = page[1]
        # What comes before the numbers are the levels of all of them.
        if len(body) < count * _PLANES or done + count > len(values):
            return False
        planes = body[len(body) - count * _PLANES :].reshape(_PLANES, count)
        _join(planes, values[done : done + count])
        done, at = done + count, at + compressed
    return done == len(values)


def _join(planes: np.ndarray, values: np.ndarray) -> None:
    """Joins the bytes of numbers, uint8 (4, n) from the lowest to the highest, to uint32 (n,)."""
    for start in range(0, len(values), _BLOCK):
        some = slice(start, start + _BLOCK)
        block = values[some]
        np.copyto(block, planes[-1, some])
        for plane in planes[-2::-1]:
            np.left_shift(block, 8, out=block)
            np.bitwise_or(block, plane[some], out=block)


def _struct(data: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """Reads a struct of Thrift's compact protocol: (number of field -> value, the place after)."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at]:
        number, at = number + (kind >> 4), at + 1
        if kind < 16:  # a long step to the next number
            number, at = zigzag(data, at)
        fields[number], at = _value(data, at, kind & 15)
    return fields, at + 1


def _value(data: memoryview, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind in (4, 5, 6):  # int16, int32, int64
        return zigzag(data, at)
    if kind == 8:  # bytes
        size, at = varint(data, at)
        return None, at + size
    if kind == 12:
        return _struct(data, at)
    raise ValueError(f"a page header has a field of type {kind}")
