"""Reads and rewrites the directory of a TIFF file; EXIF has the same format.

TIFF 6.0, section 2; BigTIFF (version 43) has 8 bytes where TIFF has 4.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from classifier.pixels.filetypes import BadImage

ORIENTATION = 274
XMP = 700
_ORDERS = {b"II": "<", b"MM": ">"}
_BIG = 43
# The bytes that one value takes, by its type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_LONG, _LONG8 = 4, (16, 18)
_SIZES |= dict.fromkeys(_LONG8, 8)
_WHOLE = {1: "B", 3: "H", _LONG: "L"}
# The size, the samples and their colours, where they lie, and how they are compressed. All other
# tags are metadata: times, places, profiles, resolutions, private ones, and the orientation.
PIXEL_TAGS = frozenset(
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325)
    + (338, 339, 347, *range(512, 522), 529, 530, 531, 532, 50674)
)


class Entry(NamedTuple):
    """A tag of a directory.

    Attributes:
      tag: its number.
      kind: the type of its values, a key of `_SIZES`.
      values: the number of its values.
      at: the offset of the first value.
      is_inline: whether the values lie in the directory itself.
      is_whole: whether all values lie in the file and are of a known type.
    """

    tag: int
    kind: int
    values: int
    at: int
    is_inline: bool
    is_whole: bool

    @property
    def size(self) -> int:
        """The bytes that all values take; 0 for an unknown type."""
        return _SIZES.get(self.kind, 0) * self.values


class Directory(NamedTuple):
    """The first directory of a file.

    Attributes:
      order: the byte order, as `struct` spells it.
      at: its offset.
      entries: the tags that lie in the file.
      is_whole: whether all tags lie in the file.
    """

    order: str
    at: int
    entries: tuple[Entry, ...]
    is_whole: bool

    def values(self, tag: int) -> Entry | None:
        """Returns a tag whose values can be read; None without one."""
        return next((e for e in self.entries if e.tag == tag and e.is_whole), None)


def read_directory(data: bytes) -> Directory | None:
    """Reads the first directory; None where it cannot be read.

    Args:
      data: a TIFF or BigTIFF file, or EXIF data behind its ``Exif\\0\\0``.
    """
    order = _ORDERS.get(bytes(data[:2]))
    if order is None:
        return None
    try:
        is_big = struct.unpack_from(f"{order}H", data, 2)[0] == _BIG
        at = struct.unpack_from(f"{order}Q" if is_big else f"{order}L", data, 8 if is_big else 4)[0]
        count = struct.unpack_from(f"{order}Q" if is_big else f"{order}H", data, at)[0]
    except (struct.error, OverflowError):
        return None
    first, step = (at + 8, 20) if is_big else (at + 2, 12)
    last = min(first + step * count, len(data) - step + 1)
    entries = tuple(_read_entry(data, place, order, is_big) for place in range(first, last, step))
    return Directory(order, at, entries, len(entries) == count)


def _read_entry(data: bytes, place: int, order: str, is_big: bool) -> Entry:
    number, room = ("Q", 8) if is_big else ("L", 4)
    tag, kind, count = struct.unpack_from(f"{order}HH{number}", data, place)
    size, field = _SIZES.get(kind, 0) * count, place + 4 + room
    at = field if size <= room else struct.unpack_from(f"{order}{number}", data, field)[0]
    return Entry(tag, kind, count, at, size <= room, kind in _SIZES and at + size <= len(data))


def orientation_tag(data: bytes) -> int | None:
    """Returns the orientation of a TIFF file or of EXIF; None where it cannot be read.

    Example:
      >>> orientation_tag(bytes.fromhex("4d4d002a00000008 0001 0112 0003 00000001 0006 0000"))
      6
    """
    directory = read_directory(data)
    entry = directory.values(ORIENTATION) if directory else None
    if directory is None or entry is None or entry.values != 1 or entry.kind not in _WHOLE:
        return None
    return struct.unpack_from(directory.order + _WHOLE[entry.kind], data, entry.at)[0]


def xmp_of(data: bytes) -> bytes:
    """Returns the XMP of a TIFF file; b"" where it cannot be read."""
    directory = read_directory(data)
    entry = directory.values(XMP) if directory else None
    return data[entry.at : entry.at + entry.size] if entry else b""


def pixel_tiff(data: bytes) -> bytes:
    """Returns a TIFF of the first image only, with the tags that its pixels need.

    The directory is rewritten in place, in TIFF's form, which is never longer. So Pillow reads a
    BigTIFF of either byte order, ignores damaged metadata and does not rotate the image.

    Args:
      data: a TIFF or BigTIFF file.

    Raises:
      BadImage: when one of these tags cannot be read; a default might be wrong.
      struct.error: for a BigTIFF whose pixels lie beyond 4 GiB.
    """
    directory = read_directory(data)
    if directory is None or not directory.is_whole:
        raise BadImage("truncated", "TIFF: its directory lies beyond the end of the file")
    order, at = directory.order, directory.at
    kept = [entry for entry in directory.entries if entry.tag in PIXEL_TAGS]
    if lost := [entry.tag for entry in kept if not entry.is_whole]:
        raise BadImage("truncated", f"TIFF: the values of its tag {lost[0]} cannot be read")
    spare = at + 2 + 12 * len(kept) + 4
    table = [struct.pack(f"{order}H", len(kept))]
    moved: list[tuple[int, bytes]] = []
    for entry in kept:
        kind, value = _as_tiff(data, entry, order)
        place = entry.at
        if len(value) > 4:
            if entry.is_inline:
                place, spare = spare, spare + len(value)
            if entry.is_inline or kind != entry.kind:
                moved.append((place, value))
            value = struct.pack(f"{order}L", place)
        table.append(
            struct.pack(f"{order}HHL", entry.tag, kind, entry.values) + value.ljust(4, b"\0")
        )
    result = bytearray(data)
    for place, value in [(at, b"".join(table) + bytes(4)), *moved]:
        result[place : place + len(value)] = value
    result[:8] = data[:2] + struct.pack(f"{order}HL", 42, at)
    return bytes(result)


def _as_tiff(data: bytes, entry: Entry, order: str) -> tuple[int, bytes]:
    """Converts the values of a tag to a type of TIFF: (type, values)."""
    value = data[entry.at : entry.at + entry.size]
    if entry.kind not in _LONG8:
        return entry.kind, value
    numbers = struct.unpack(f"{order}{entry.values}Q", value)
    return _LONG, struct.pack(f"{order}{entry.values}L", *numbers)
