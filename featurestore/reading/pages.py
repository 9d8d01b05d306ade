"""Maps the features of an uncompressed part into memory, without decoding or copying them.

The maps of a row group are one column chunk with one page: a header of about 30 bytes, then the
values exactly as in an array. Arrow's reader would copy them twice. Arrow reads chunks of any other
form (another writer, several pages, compression).
"""

from __future__ import annotations

import os
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# In Thrift's compact protocol each field of a page header (parquet.thrift, PageHeader) begins with
# its number and type; this byte means "the next field, an int32".
_NEXT_INT32 = 0x15
_DATA_PAGE = 0
_HEADER_BYTES = 32
_PAGE_BYTES = 4096  # of memory, at least


def plain_block(
    path: str, metadata: pq.FileMetaData, group: int, name: str, width: int
) -> tuple[int, int] | None:
    """Finds the place of a fixed-width column's values in a file.

    Args:
      path: of a local Parquet file.
      metadata: its footer.
      group: number of the row group.
      name: of the column.
      width: bytes of one value.

    Returns:
      (offset of the first value, bytes of all values), or None when they are not one plain page.
    """
    chunks = map(metadata.row_group(group).column, range(metadata.num_columns))
    column = next((chunk for chunk in chunks if chunk.path_in_schema == name), None)
    if column is None:
        return None
    size = column.num_values * width
    plain = set(column.encodings) <= {"PLAIN", "RLE"} and not column.has_dictionary_page
    if not plain or column.compression != "UNCOMPRESSED" or not size:
        return None
    with open(path, "rb", buffering=0) as file:
        file.seek(column.data_page_offset)
        header = file.read(_HEADER_BYTES)
    if _first_numbers(header) != (_DATA_PAGE, size, size):
        return None
    # The first page holds all values, so the rest of the chunk is its header.
    return column.data_page_offset + column.total_compressed_size - size, size


def expect(path: str, offset: int, size: int) -> None:
    """Asks the system to read a range of a local file ahead, and does not wait for it.

    By itself it reads ahead too little to keep a disk busy.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError), open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)


def _first_numbers(header: bytes) -> tuple[int, ...] | None:
    """Returns a page header's type, uncompressed size and compressed size, or None."""
    numbers, at = [], 0
    for _ in range(3):
        if header[at : at + 1] != bytes([_NEXT_INT32]):
            return None
        try:
            number, at = zigzag(header, at + 1)
        except IndexError:
            return None
        numbers.append(number)
    return tuple(numbers)


def zigzag(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Reads a signed number of Thrift's compact protocol; returns it and the place after it.

    Raises:
      IndexError: when the data end within the number.

    Example:
      >>> zigzag(b"\\xac\\x02", 0), zigzag(b"\\x01", 0)
      ((150, 2), (-1, 1))
    """
    value, at = varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Reads an unsigned number of 7 bits per byte; returns it and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def map_block(path: str, offset: int, size: int, dtype: str) -> np.ndarray:
    """Maps a range of a file into memory.

    The mapping lives as long as the array, even if the file is deleted. Its pages are cache, which
    the system reclaims when memory is short. Values that do not start at a multiple of their size
    are copied, because not all libraries accept unaligned arrays.

    Args:
      path: of a local file.
      offset: of the first byte.
      size: in bytes, at least 1.
      dtype: of the values.

    Returns:
      An array of (size / itemsize,) values of `dtype`, read-only.

    Raises:
      pa.ArrowInvalid: when the file is too short.
    """
    # Unlike Python's mapping, Arrow's holds no file descriptor.
    with pa.memory_map(path) as file:
        file.seek(offset)
        block = file.read_buffer(size)
    if block.size < size:
        raise pa.ArrowInvalid("it is shorter than its footer says")
    # Waits for the disk here, in the thread that reads, and not where the caller uses the values.
    np.add.reduce(np.frombuffer(block, np.uint8)[::_PAGE_BYTES])
    values = np.frombuffer(block, dtype)
    if not values.flags.aligned:
        values = values.copy()
        values.flags.writeable = False
    return values
