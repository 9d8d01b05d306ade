"""Damaged image files of every format, the same for the same seed.

Four kinds of damage: flipped bits, cut ends, the head of one file on the body of another, and
headers that declare more pixels than the file can hold, with checksums that fit.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

HUGE_SIZES = (
    (65535, 65535),
    (1, 65535),
    (65500, 2700),  # just inside the limit of pixels
    (13000, 13000),
    (0, 7),
    (2**31 - 1, 2**31 - 1),
    (2**32 - 1, 1),
)


def originals(seed: int = 0) -> dict[str, bytes]:
    """Returns one whole file of each kind that cameras, editors and websites write."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    photo = coarse.resize((64, 48), Image.Resampling.BICUBIC)
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(random.integers(0, 256, (48, 64), np.uint8)))
    deep = Image.fromarray(random.integers(0, 65536, (48, 64), np.uint16))
    return {
        "jpeg": _encoded(photo, "JPEG"),
        "jpeg-grey": _encoded(photo.convert("L"), "JPEG"),
        "jpeg-cmyk": _encoded(photo.convert("CMYK"), "JPEG"),
        "jpeg-progressive": _encoded(photo, "JPEG", progressive=True),
        "jpeg-exif": _encoded(photo, "JPEG", exif=_turned()),
        "png": _encoded(photo, "PNG"),
        "png-palette": _encoded(photo.convert("P"), "PNG", transparency=3),
        "png-alpha": _encoded(alpha, "PNG"),
        "png-16-bit": _encoded(deep, "PNG"),
        "png-grey": _encoded(photo.convert("L"), "PNG"),
        "gif": _encoded(photo.convert("P"), "GIF"),
        "gif-moving": _encoded(photo, "GIF", save_all=True, append_images=[alpha.convert("RGB")]),
        "bmp": _encoded(photo, "BMP"),
        "bmp-palette": _encoded(photo.convert("P"), "BMP"),
        "webp": _encoded(photo, "WEBP"),
        "webp-lossless": _encoded(alpha, "WEBP", lossless=True),
        "tiff": _encoded(photo, "TIFF"),
        "tiff-lzw": _encoded(photo, "TIFF", compression="tiff_lzw"),
        "tiff-16-bit": _encoded(deep, "TIFF", compression="tiff_deflate"),
    }


def _encoded(image: Image.Image, kind: str, **settings) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **settings)
    return sink.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def flipped(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Flips 1 to 32 bits, half of the time near the head, where the structure is."""
    result = bytearray(data)
    reach = len(data) if random.random() < 0.5 else min(64, len(data))
    for _ in range(random.integers(1, 33)):
        result[random.integers(0, reach)] ^= 1 << int(random.integers(0, 8))
    return bytes(result)


def truncated(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Cuts the end off, at any place from the first byte on."""
    return data[: random.integers(0, len(data))]


def spliced(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Puts the head of one file on the body of another."""
    other = others[random.integers(0, len(others))]
    at = int(random.integers(4, min(256, len(other), len(data))))
    return other[:at] + data[at:]


def oversized(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Declares another width and height than the pixels have."""
    width, height = HUGE_SIZES[random.integers(0, len(HUGE_SIZES))]
    return declare_size(data, width, height)


MUTATIONS: tuple[Callable[[bytes, list[bytes], np.random.Generator], bytes], ...] = (
    flipped,
    truncated,
    spliced,
    oversized,
)


def declare_size(data: bytes, width: int, height: int) -> bytes:
    """Writes a width and a height into the header of an image file, its checksum mended.

    Values too large for the format's field keep their low bits.
    """
    result = bytearray(data)
    short = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    if data[:2] == b"\xff\xd8":
        at = next(i for i in range(2, len(data)) if data[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
        result[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif data[:4] == b"\x89PNG":
        result[16:24] = struct.pack(">II", width, height)
        result[29:33] = struct.pack(">I", zlib.crc32(result[12:29]))
    elif data[:3] == b"GIF":
        result[6:10] = short
        frame = data.index(b"\x2c\0\0\0\0")  # the first frame, at the corner
        result[frame + 5 : frame + 9] = short
    elif data[:2] == b"BM":
        result[18:26] = struct.pack("<II", width, height)
    elif data[12:16] == b"VP8 ":
        result[26:30] = short
    elif data[12:16] == b"VP8L":
        bits = (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14
        result[21:25] = struct.pack("<I", bits | data[24] >> 4 << 28)
    else:
        _declare_tiff(result, {256: width, 257: height})
    return bytes(result)


def _declare_tiff(data: bytearray, values: Mapping[int, int]) -> None:
    directory = struct.unpack("<I", data[4:8])[0]
    for number in range(struct.unpack("<H", data[directory : directory + 2])[0]):
        at = directory + 2 + 12 * number
        if (tag := struct.unpack("<H", data[at : at + 2])[0]) in values:
            # Type 4: a number of four bytes.
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, values[tag])


def write_mutants(folder: Path, count: int, seed: int = 0) -> dict[str, str]:
    """Writes damaged files, formats and damages in turn.

    Returns:
      The damage of each, by key.
    """
    random = np.random.default_rng(seed)
    files = originals(seed)
    names, others = list(files), list(files.values())
    damages = {}
    for number in range(count):
        name = names[number % len(names)]
        mutate = MUTATIONS[number // len(names) % len(MUTATIONS)]
        path = folder / mutate.__name__ / f"{number:05d}.{name}.{name.partition('-')[0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutate(files[name], others, random))
        damages[str(path.relative_to(folder))] = mutate.__name__
    return damages
