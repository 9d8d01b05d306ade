"""Checks image files before they are decoded: their type, declared sizes and ends.

These checks cover what decoders leave unchecked, so that a damaged file never gives half an image.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

BAD_KINDS = (
    "empty",
    "not_an_image",
    "truncated",
    "undecodable",
    "zero_size",
    "too_large",
    "unreadable",
)
# Pillow's own MAX_IMAGE_PIXELS: a quarter of a gigabyte of RGB.
MAX_PIXELS = 89_478_485
# A BMP without its file header: the length of one of Windows's headers, two sizes below 65,536 (a
# height may be negative), one plane, bits per pixel.
_DIB = re.compile(
    rb"[\x28\x34\x38\x6c\x7c]\0\0\0..\0\0..(?:\0\0|\xff\xff)\x01\0[\x01\x04\x08\x10\x18\x20]\0",
    re.DOTALL,
)


class BadImage(Exception):
    """The reason why an image cannot be used; a run quarantines the image and goes on.

    Attributes:
      kind: one of `BAD_KINDS`.
      message: the rule, the value and the cause, in one line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message)


def sniff(data: bytes) -> str | None:
    """Detects the type of an image from its content; extensions may be wrong.

    Args:
      data: at least the first 16 bytes of the file.

    Returns:
      ``jpeg``, ``png``, ``gif``, ``bmp``, ``webp`` or ``tiff``; None for anything else.

    Example:
      >>> sniff(b"GIF89a......")
      'gif'
    """
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # + is BigTIFF's
        return "tiff"
    if data[:2] == b"BM" or _DIB.match(data):
        return "bmp"
    return None


def check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage("zero_size", f"the image is {width}x{height} pixels")
    if width * height > max_pixels:
        raise BadImage(
            "too_large",
            f"{width}x{height} is {width * height:,} pixels, the limit is {max_pixels:,}; "
            "a decompression bomb, or an image to scale down first",
        )


def check_ends(data: bytes, kind: str) -> None:
    """Raises `BadImage` for sizes of zero and missing ends, which Pillow does not check."""
    size = None
    if kind == "png" and len(data) >= 24:
        size = struct.unpack(">II", data[16:24])
    elif kind == "bmp":
        header = data[14 if data[:2] == b"BM" else 0 :][:12]
        if len(header) == 12 and struct.unpack("<I", header[:4])[0] >= 40:
            width, height = struct.unpack("<ii", header[4:])
            size = (abs(width), abs(height))  # a negative height: rows from top to bottom
    if size is not None and min(size) == 0:
        raise BadImage("zero_size", f"the image is {size[0]}x{size[1]} pixels")
    if kind == "png":
        end = data.rfind(b"IEND")
        if end < 0 or end + 8 > len(data):
            raise BadImage("truncated", "PNG: its closing IEND chunk is missing")
    if kind == "webp" and len(data) < 8 + struct.unpack("<I", data[4:8].ljust(4, b"\0"))[0]:
        raise BadImage("truncated", f"WebP: has {len(data)} bytes, its header says more")


def check_strips(tags: Mapping[int, Any]) -> None:
    """Checks that a TIFF has the strips or tiles that its size needs; missing ones would be black.

    Args:
      tags: the tags of the first frame, by number (TIFF 6.0, sections 8 and 15).

    Raises:
      BadImage: when pixels are missing.
    """
    width, height = tags[256], tags[257]
    planes = tags.get(277, 1) if tags.get(284, 1) == 2 else 1
    if 324 in tags:
        found, needed = len(tags[324]), -(-width // tags[322]) * -(-height // tags[323])
    else:
        found = len(tags.get(273, ()))
        needed = -(-height // min(tags.get(278, height), height))
    if found < needed * planes:
        raise BadImage(
            "truncated", f"TIFF: {width}x{height} takes {needed * planes} strips, it has {found}"
        )
    sizes, bits = tags.get(279, ()), tags.get(258, (1,))
    is_plain = tags.get(259, 1) == 1 and tags.get(262) != 6  # no subsampled chroma
    if is_plain and sizes and min(sizes) > 0:
        row_bits = [sum(bits)] if planes == 1 else [bits[0]] * planes
        expected = height * sum((width * count + 7) // 8 for count in row_bits)
        if sum(sizes) < expected:
            held = f"its strips hold {sum(sizes):,}"
            raise BadImage("truncated", f"TIFF: {width}x{height} takes {expected:,} bytes, {held}")
