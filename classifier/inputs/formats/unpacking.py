"""Unpacks members of a zip piece by piece, never beyond their declared size."""

from __future__ import annotations

import bz2
import copy
import lzma
import struct
import zipfile
from typing import IO

_LZMA_HEADER = struct.Struct("<HHBL")  # version, size of what follows, lc/lp/pb, dictionary


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Opens a member of a zip so that a read unpacks as many bytes as it returns.

    The module ``zipfile`` unpacks a whole bzip2 or LZMA member, whatever size it declares: 40 bytes
    of bzip2 hold 45 MB.
    """
    if info.compress_type == zipfile.ZIP_BZIP2:
        return bz2.BZ2File(archive.open(_as_stored(info)))
    if info.compress_type == zipfile.ZIP_LZMA:
        raw = archive.open(_as_stored(info))
        _, size, packed, dictionary = _LZMA_HEADER.unpack(raw.read(_LZMA_HEADER.size))
        if size != 5:
            raise zipfile.BadZipFile("its LZMA properties are not those of a zip")
        properties = {
            "id": lzma.FILTER_LZMA1,
            "lc": packed % 9,
            "lp": packed // 9 % 5,
            "pb": packed // 45,
            # A dictionary larger than the content would be allocated for nothing.
            "dict_size": max(1 << 12, min(dictionary, info.file_size)),
        }
        return lzma.LZMAFile(raw, format=lzma.FORMAT_RAW, filters=[properties])
    return archive.open(info)


def _as_stored(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Returns a copy of a member that reads as its compressed bytes, without a checksum."""
    raw = copy.copy(info)
    raw.compress_type, raw.file_size = zipfile.ZIP_STORED, info.compress_size
    del raw.CRC
    return raw
