"""Bytes to pixels: ``uint8 (H, W, 3)`` RGB, the contract between decoder, base and exported model.

Each step follows TensorFlow, so that features equal those of the textbook path:

* JPEGs are decoded by libjpeg's accurate integer DCT, bit-equal to
  ``tf.io.decode_jpeg(dct_method="INTEGER_ACCURATE")``; other formats are decoded by Pillow.
* `classifier.pixels.resize` sets size and aspect ratio.
* Metadata sets the orientation, where the spec asks for it, and nothing else: see
  `classifier.pixels.metadata`.

Unlike in TensorFlow, a damaged file never gives half an image: it raises `BadImage`.
"""

from __future__ import annotations

import functools
import io
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.pixels.filetypes import (
    MAX_PIXELS,
    BadImage,
    check_ends,
    check_size,
    check_strips,
    sniff,
)
from classifier.pixels.metadata import orientation, without_metadata
from classifier.pixels.rasters import oriented, quiet_pillow, to_rgb
from classifier.pixels.resize import opencv, resize
from featurestore.spec import PixelSpec

# What Pillow's decoders raise for damaged bytes.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    AttributeError,
    MemoryError,
    struct.error,
)


@dataclass(frozen=True)
class Decoded:
    """One image, ready for the base.

    Attributes:
      pixels: uint8 (H, W, 3), RGB at the target size.
      width: the width of the file's image in pixels, before EXIF orientation.
      height: its height, likewise.
    """

    pixels: np.ndarray
    width: int
    height: int


def decode(data: bytes, spec: PixelSpec, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decodes a file to pixels of the target size.

    Args:
      data: the whole file.
      spec: target size and rules.
      max_pixels: larger images are refused before they are decoded.

    Returns:
      Pixels uint8 (H, W, 3), and the original size.

    Raises:
      BadImage: when the file does not hold a whole image.
    """
    if not data:
        raise BadImage("empty", "the file has 0 bytes; perhaps its writing was interrupted")
    kind = sniff(data)
    if kind is None:
        raise BadImage(
            "not_an_image",
            f"starts with {data[:8]!r}, which is none of JPEG, PNG, GIF, BMP, WebP, TIFF",
        )
    pixels = _decode_jpeg(data, max_pixels) if kind == "jpeg" else None
    if pixels is None:
        pixels = _decode_pillow(data, kind, spec.alpha, max_pixels)
    height, width = pixels.shape[:2]
    if spec.exif == "apply":
        pixels = oriented(pixels, orientation(data, kind))
    return Decoded(resize(pixels, spec), width, height)


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """Decodes a JPEG; None for one that is left to Pillow: whole in CMYK, or without a header."""
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_size(width, height, max_pixels)
    # Pillow converts inks to RGB; this decoder only checks that the file is whole.
    inks = colorspace not in ("YCbCr", "RGB", "Gray")
    options = {"fastdct": False, "fastupsample": False, "colorspace": "CMYK" if inks else "RGB"}
    pixels = _decode_strictly(data, options)
    return None if inks else pixels


def _decode_strictly(data: bytes, options: Mapping[str, Any]) -> np.ndarray:
    """Decodes a whole JPEG; two harmless oddities are allowed."""
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data, **options, strict=True)
    except ValueError as error:
        message = str(error)
    if "Invalid SOS parameters" in message:
        # A sequential JPEG does not use these fields, and TensorFlow decodes it. We correct them;
        # decoding loosely would hide every other fault.
        try:
            return simplejpeg.decode_jpeg(_SOS.sub(_with_whole_scan, data), **options, strict=True)
        except ValueError as error:
            message = str(error)
    # Padding between the last row and the next marker is harmless: many cameras and editors write
    # it (hundreds of files of Dogs vs. Cats), and TensorFlow decodes it.
    if re.search(r"extraneous bytes before marker", message):
        if data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:
            raise BadImage("truncated", "JPEG: its closing marker is missing")
        try:
            return simplejpeg.decode_jpeg(data, **options, strict=False)
        except ValueError as error:
            message = str(error)
    raise BadImage("truncated" if _is_cut(message) else "undecodable", f"JPEG: {message}")


# A scan's header: its length (6 + 2n), its n components, and the three bytes to correct.
_SOS = re.compile(rb"(\xff\xda\0(?:\x08\x01.{2}|\x0a\x02.{4}|\x0c\x03.{6}))...", re.DOTALL)


def _with_whole_scan(header: re.Match[bytes]) -> bytes:
    return header[1] + b"\0\x3f\0"


def _is_cut(message: str) -> bool:
    return bool(re.search(r"premature end|truncated|unexpected end|broken data", message, re.I))


def _decode_pillow(data: bytes, kind: str, alpha: str, max_pixels: int) -> np.ndarray:
    """Decodes the first frame of any format, strictly: LOAD_TRUNCATED_IMAGES stays off."""
    from PIL import Image

    quiet_pillow()
    check_ends(data, kind)
    try:
        with Image.open(io.BytesIO(without_metadata(data, kind, alpha))) as image:
            check_size(*image.size, max_pixels)
            if tags := getattr(image, "tag_v2", None):  # TIFF
                check_strips(tags)
            image.load()
            return to_rgb(image, alpha)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_large", str(error)) from error
    except _DAMAGED as error:
        text = str(error)
        if isinstance(error, Image.UnidentifiedImageError):
            # Pillow's own text is a memory address.
            text = "the header cannot be read"
        cut = _is_cut(text) or (kind == "jpeg" and b"\xff\xd9" not in data[-64:])
        raise BadImage("truncated" if cut else "undecodable", f"{kind.upper()}: {text}") from error


@functools.cache
def decoder_versions() -> dict[str, str]:
    """Returns the libraries that decode and resize, with their versions."""
    import PIL
    import simplejpeg

    return {
        "simplejpeg": simplejpeg.__version__,
        "pillow": PIL.__version__,
        "opencv": opencv().__version__,
    }


def decoder_label() -> str:
    """Returns `decoder_versions` as one text, for the store's numerics."""
    return " ".join(f"{name}-{version}" for name, version in decoder_versions().items())
