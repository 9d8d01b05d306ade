"""Resizes pixels to the base's size.

* Resizing follows ``tf.image.resize(antialias=False)``, rounded and clipped. OpenCV does it where
  it agrees within 1 level: bilinear and area. Nearest is indexing. Bicubic is left to TensorFlow,
  because OpenCV uses another kernel (a = -0.75 against -0.5).
* ``crop`` and ``pad`` follow `keras.utils.image_dataset_from_directory` (``crop_to_aspect_ratio``,
  ``pad_to_aspect_ratio``), including its float32 rounding. ``pad`` is `tf.image.resize_with_pad`:
  it resizes, then adds black borders.
* ``crop:256`` and ``pillow-*`` follow torchvision and the image processors of Hugging Face: the
  shorter side is resized, antialiased, and the centre is cut out. Where the border is an odd number
  of pixels, the cut begins at the rounded-down half, as in Hugging Face; torchvision rounds up to
  one pixel further.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from featurestore.spec import PixelSpec


def resize(pixels: np.ndarray, spec: PixelSpec) -> np.ndarray:
    """Resizes pixels to the target size by the spec's fit and method.

    Args:
      pixels: uint8 (h, w, 3).
      spec: target size, fit and method.

    Returns:
      uint8 (H, W, 3), C order.
    """
    if spec.fit == "pad":
        return _resize_padded(pixels, spec)
    if spec.shorter_side is not None:
        return _centre(pixels, spec, spec.shorter_side)
    if spec.fit == "crop":
        pixels = _cropped(pixels, spec.image_size)
    return _squashed(pixels, spec.image_size, spec.resize)


def _squashed(pixels: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    height, width = size
    source = np.ascontiguousarray(pixels)
    if source.shape[:2] == size:
        return source
    if method == "nearest":
        rows = _nearest(source.shape[0], height)
        return np.ascontiguousarray(source[rows][:, _nearest(source.shape[1], width)])
    if method == "bicubic":
        return _resize_bicubic(source, size)
    if method.startswith("pillow-"):
        return _resize_pillow(source, size, method.removeprefix("pillow-"))
    cv2 = opencv()
    if method == "bilinear":
        return cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
    return _resize_area(cv2, source, height, width)


def _aspect(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height for this width, width for this height) at the target's aspect ratio.

    It computes in float32 and truncates, like keras.preprocessing.image.smart_resize in a graph.
    """
    tall = int(np.float32(width * size[0]) / np.float32(size[1]))
    wide = int(np.float32(height * size[1]) / np.float32(size[0]))
    return tall, wide


def _cropped(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts out the largest centred part of the target's aspect ratio."""
    height, width = pixels.shape[:2]
    tall, wide = _aspect(height, width, size)
    tall, wide = max(min(height, tall), 1), max(min(width, wide), 1)
    top, left = (height - tall) // 2, (width - wide) // 2
    return pixels[top : top + tall, left : left + wide]


def _centre(pixels: np.ndarray, spec: PixelSpec, shorter: int) -> np.ndarray:
    """Resizes the shorter side, the other in proportion and rounded down, then cuts the centre."""
    sides = pixels.shape[:2]
    height, width = (int(shorter * side / min(sides)) for side in sides)
    resized = _squashed(pixels, (height, width), spec.resize)
    top, left = (height - spec.image_size[0]) // 2, (width - spec.image_size[1]) // 2
    cut = resized[top : top + spec.image_size[0], left : left + spec.image_size[1]]
    return np.ascontiguousarray(cut)


def _resize_padded(pixels: np.ndarray, spec: PixelSpec) -> np.ndarray:
    """Resizes with the aspect ratio kept, then adds black borders."""
    size = np.array(spec.image_size, np.float32)
    sides = np.array(pixels.shape[:2], np.float32)
    fitting = sides / (sides / size).max()
    inner = (max(1, int(fitting[0])), max(1, int(fitting[1])))
    top, left = (max(0, int(rest)) for rest in (size - fitting) / np.float32(2))
    result = np.zeros((*spec.image_size, 3), np.uint8)
    result[top : top + inner[0], left : left + inner[1]] = _squashed(pixels, inner, spec.resize)
    return result


@functools.cache
def opencv() -> Any:
    """Imports OpenCV, with one thread."""
    import cv2

    # The callers are threads already; OpenCV's own threads would compete for the cores.
    cv2.setNumThreads(1)
    return cv2


def _nearest(old: int, new: int) -> np.ndarray:
    """Returns the source index of each target index: TensorFlow's half-pixel rule, in float32.

    OpenCV's INTER_NEAREST_EXACT rounds ties otherwise, and whole rows would differ.
    """
    scale = np.float32(old) / np.float32(new)
    index = np.floor((np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale)
    return np.minimum(index.astype(np.int64), old - 1)


def _resize_area(cv2: Any, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    old_height, old_width = pixels.shape[:2]
    if (height <= old_height) == (width <= old_width):
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    # OpenCV averages areas only when both sides shrink. So one side is resized at a time, in
    # float32, so that rounding happens once.
    part = cv2.resize(pixels.astype(np.float32), (old_width, height), interpolation=cv2.INTER_AREA)
    part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(part), 0, 255).astype(np.uint8)


def _resize_pillow(pixels: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    from PIL import Image

    wanted = Image.Resampling[method.upper()]
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], wanted))


def _resize_bicubic(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import tensorflow as tf

    with tf.device("/CPU:0"):
        resized = tf.image.resize(pixels, size, method="bicubic", antialias=False).numpy()
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)
