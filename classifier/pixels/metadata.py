"""Reads the orientation from an image file's metadata, and removes metadata.

Texts, profiles, times and places must never decide whether pixels are used, so Pillow gets a file
without them. Pillow refuses large and damaged metadata, takes minutes for some, and rotates a TIFF
unasked.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from classifier.pixels.filetypes import BadImage
from classifier.pixels.tiffs import orientation_tag, pixel_tiff, xmp_of

# The search for an orientation unpacks this much of a PNG's compressed text.
TEXT_LIMIT = 1 << 20
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_WEBP_METADATA = (b"ICCP", b"EXIF", b"XMP ")
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


class Block(NamedTuple):
    """A chunk, segment or extension of a file.

    Attributes:
      name: of its kind.
      start: offset of its first byte.
      body: offset of the first byte of its content.
      stop: offset behind its content.
      end: offset behind the block.
    """

    name: bytes
    start: int
    body: int
    stop: int
    end: int


def without_metadata(data: bytes, kind: str, alpha: str) -> bytes:
    """Returns the file with its pixels only.

    Bytes of unknown meaning stay for the decoder to judge.

    Args:
      data: the whole file.
      kind: the type that `classifier.pixels.filetypes.sniff` returned.
      alpha: the spec's rule; ``drop`` also removes the transparency of a PNG.

    Raises:
      BadImage: for a PNG whose pixels have a wrong checksum.
    """
    if kind == "png":
        return _pixel_png(data, keep_transparency=alpha != "drop")
    if kind == "tiff":
        return pixel_tiff(data)
    pixel_file = {"jpeg": _pixel_jpeg, "webp": _pixel_webp, "gif": _pixel_gif}.get(kind)
    return pixel_file(data) if pixel_file else data


def orientation(data: bytes, kind: str) -> int:
    """Returns the orientation of a file, 1 to 8; 1 (upright) where no sound metadata has one.

    EXIF comes before XMP, as in `PIL.ImageOps.exif_transpose`.

    Args:
      data: the whole file.
      kind: the type that `classifier.pixels.filetypes.sniff` returned.
    """
    if kind == "tiff":
        exif, xmp = data, xmp_of(data)
    else:
        read = {"jpeg": _jpeg_metadata, "png": _png_metadata, "webp": _webp_metadata}.get(kind)
        exif, xmp = read(data) if read else (b"", b"")
    found = orientation_tag(exif)
    if found is None and (match := _XMP_ORIENTATION.search(xmp)):
        found = int(match[1])
    return found if found is not None and 1 <= found <= 8 else 1


def _without(data: bytes, metadata: list[Block]) -> bytes:
    if not metadata:
        return data
    starts = [0, *(block.end for block in metadata)]
    ends = [*(block.start for block in metadata), len(data)]
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def _png_chunks(data: bytes) -> Iterator[Block]:
    """Yields the chunks that are whole, in order (PNG, 3rd edition, section 5.3)."""
    at, name = 8, b""
    while at + 12 <= len(data) and name != b"IEND":
        length, name = struct.unpack_from(">L4s", data, at)
        block = Block(name, at, at + 8, at + 8 + length, at + 12 + length)
        if block.end > len(data) or not name.isalpha():
            return
        yield block
        at = block.end


def _is_sound(data: bytes, chunk: Block) -> bool:
    found = zlib.crc32(memoryview(data)[chunk.start + 4 : chunk.stop])
    return found == struct.unpack_from(">L", data, chunk.stop)[0]


def _pixel_png(data: bytes, keep_transparency: bool) -> bytes:
    metadata = []
    for chunk in _png_chunks(data):
        if chunk.name[0] & 0x20 and not (keep_transparency and chunk.name == b"tRNS"):
            metadata.append(chunk)
        elif not _is_sound(data, chunk):
            name = chunk.name.decode()
            raise BadImage("undecodable", f"PNG: its {name} chunk has a wrong checksum")
    return _without(data, metadata)


def _png_metadata(data: bytes) -> tuple[bytes, bytes]:
    exif = raw = xmp = b""
    for chunk in _png_chunks(data):
        if chunk.name not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") or not _is_sound(data, chunk):
            continue
        body = data[chunk.body : chunk.stop]
        if chunk.name == b"eXIf":
            exif = body
            continue
        keyword, _, rest = body.partition(b"\0")
        if keyword == b"Raw profile type exif" and chunk.name != b"iTXt":
            # ImageMagick writes three lines, then hexadecimal digits.
            text = rest if chunk.name == b"tEXt" else _unpacked(rest[1:])
            raw = _from_hex(b"".join(text.split(b"\n")[3:]))
        elif keyword == b"XML:com.adobe.xmp" and chunk.name == b"iTXt":
            text = rest[2:].split(b"\0", 2)[-1]
            xmp = _unpacked(text) if rest[:1] == b"\1" else text
    return (exif or raw).removeprefix(_EXIF), xmp


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, TEXT_LIMIT)
    except zlib.error:
        return b""


def _from_hex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return b""


def _jpeg_segments(data: bytes) -> Iterator[Block]:
    """Yields the segments before the first scan (ITU-T T.81, B.1)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        name, length = data[at + 1 : at + 2], struct.unpack_from(">H", data, at + 2)[0]
        end = at + 2 + length
        if name == b"\xda" or 0xD0 <= name[0] <= 0xD9 or length < 2 or end > len(data):
            return
        yield Block(name, at, at + 4, end, end)
        at = end


def _pixel_jpeg(data: bytes) -> bytes:
    metadata = [
        segment
        for segment in _jpeg_segments(data)
        if (0xE0 <= segment.name[0] <= 0xEF or segment.name == b"\xfe")
        and not _says_colours(data, segment)
    ]
    return _without(data, metadata)


def _says_colours(data: bytes, segment: Block) -> bool:
    """Whether a segment defines the colour components of a JPEG."""
    body = data[segment.body : segment.stop]
    is_jfif = segment.name == b"\xe0" and body.startswith(b"JFIF\0") and len(body) >= 14
    return is_jfif or (segment.name == b"\xee" and body.startswith(b"Adobe") and len(body) >= 12)


def _jpeg_metadata(data: bytes) -> tuple[bytes, bytes]:
    exif = xmp = b""
    for segment in _jpeg_segments(data):
        if segment.name != b"\xe1":
            continue
        body = data[segment.body : segment.stop]
        if body.startswith(_EXIF):
            exif += body[len(_EXIF) :]
        elif body.startswith(_XMP):
            xmp = body[len(_XMP) :]
    return exif, xmp


def _webp_chunks(data: bytes) -> Iterator[Block]:
    """Yields chunks (WebP Container Specification); the last may declare more than there is."""
    at = 12
    limit = min(len(data), 8 + struct.unpack_from("<L", data, 4)[0])
    while at + 8 <= limit:
        name, length = struct.unpack_from("<4sL", data, at)
        end = min(at + 8 + length + length % 2, limit)
        yield Block(name, at, at + 8, min(at + 8 + length, limit), end)
        at = end


def _pixel_webp(data: bytes) -> bytes:
    metadata = [chunk for chunk in _webp_chunks(data) if chunk.name in _WEBP_METADATA]
    result = bytearray(_without(data, metadata))
    if data[12:16] == b"VP8X" and len(result) > 20:
        result[20] &= ~0x2C  # no profile, no EXIF, no XMP
    result[4:8] = struct.pack("<L", struct.unpack_from("<L", data, 4)[0] + len(result) - len(data))
    return bytes(result)


def _webp_metadata(data: bytes) -> tuple[bytes, bytes]:
    found = {chunk.name: data[chunk.body : chunk.stop] for chunk in _webp_chunks(data)}
    return found.get(b"EXIF", b"").removeprefix(_EXIF), found.get(b"XMP ", b"")


def _gif_extensions(data: bytes) -> Iterator[Block]:
    """Yields the extensions before the first frame (GIF89a, sections 15 to 26)."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    while data[at : at + 1] == b"\x21":
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        if end >= len(data):
            return
        yield Block(data[at + 1 : at + 2], at, at + 2, end, end + 1)
        at = end + 1


def _pixel_gif(data: bytes) -> bytes:
    # The graphic control extension stays: it names the transparent colour.
    return _without(data, [block for block in _gif_extensions(data) if block.name != b"\xf9"])
