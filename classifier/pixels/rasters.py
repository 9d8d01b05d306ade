"""Converts Pillow images to ``uint8 (h, w, 3)``: 16-bit grey, palettes, transparency, orientation.

Large images are converted in strips of rows; temporaries of the whole would take several times the
memory of the image.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

STRIP_PIXELS = 1 << 20


def to_rgb(image: Image.Image, alpha: str) -> np.ndarray:
    """Converts a loaded image.

    Args:
      image: of any mode.
      alpha: ``drop``, or the background behind transparent pixels: ``white`` or ``black``.

    Returns:
      uint8 (h, w, 3).

    Raises:
      ValueError: for values that have no agreed 8-bit form.
    """
    if image.mode in ("I", "F"):
        kind = "32-bit grey values" if image.mode == "I" else "floating-point pixels"
        raise ValueError(f"{kind} have no agreed 8-bit form")
    width, height = image.size
    result = np.empty((height, width, 3), np.uint8)
    if image.mode.startswith("I;16"):
        _grey16(np.asarray(image), image.info.get("transparency"), alpha, result)
        return result
    see_through = image.info.get("transparency")
    if isinstance(see_through, tuple) and max(see_through) > 255:
        # The transparent colour of a 16-bit PNG; Pillow keeps only the high bytes of pixels.
        image.info["transparency"] = tuple(value >> 8 for value in see_through)
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or see_through is not None
    for top, bottom in _strips(height, width):
        strip = image.crop((0, top, width, bottom)) if bottom - top < height else image
        if not transparent:
            result[top:bottom] = np.asarray(strip.convert("RGB"))
            continue
        rgba = np.asarray(strip.convert("RGBA"))
        result[top:bottom] = _composed(rgba[..., :3], rgba[..., 3:], alpha)
    return result


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _composed(colours: np.ndarray, opacity: np.ndarray, alpha: str) -> np.ndarray:
    if alpha == "drop":
        return colours
    share = opacity.astype(np.uint16)
    over = colours * share + (255 if alpha == "white" else 0) * (255 - share)
    return ((over + 127) // 255).astype(np.uint8)


def _grey16(grey: np.ndarray, transparent: Any, alpha: str, result: np.ndarray) -> None:
    # TensorFlow takes the high byte, by libpng; Pillow would clip.
    for top, bottom in _strips(*grey.shape):
        values = grey[top:bottom]
        levels = (values >> 8).astype(np.uint8)
        if isinstance(transparent, int) and alpha != "drop":
            levels[values == transparent] = 255 if alpha == "white" else 0
        result[top:bottom] = levels[..., None]


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies the EXIF orientation, 1 to 8; any other value means upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    # The axes to mirror after the transposition (EXIF 2.3, table of orientations).
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@functools.cache
def quiet_pillow() -> None:
    """Keeps Pillow and its libtiff from writing to standard error; bad images are reported by us.

    Redirecting the file descriptor instead would lose what other threads write meanwhile.
    """
    from PIL import Image, _imaging

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        # libtiff prints from C; the extension that links it gives access to its symbols. Pillow
        # silences libtiff's warnings, but not its errors.
        silence = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return  # built without libtiff, or with its symbols hidden
    silence.argtypes, silence.restype = [ctypes.c_void_p], ctypes.c_void_p
    silence(None)
