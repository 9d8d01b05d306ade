"""Warps images like Keras's augmentation layers, in NumPy.

The layers draw from TensorFlow's generators and warp by its `ImageProjectiveTransformV3`. Here a
transform is a pure function of its parameters. Products and sums are separate float32 operations of
NumPy, which no compiler fuses, so the same parameters give the same pixels on every processor and
with every release. On x86 a warp is bit-equal to TensorFlow's and as fast, and no worker has to
load TensorFlow for it.

Images are float32 (H, W, 3), levels from 0 to 255. Coordinates are those of pixel centres.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

F32 = np.float32
# Float32 RGB of so many pixels stays below 128 KiB. From there on malloc maps and clears each array
# anew, which costs 900 page faults per image and twice the time.
BLOCK_PIXELS = 8192


def rotated(image: np.ndarray, turns: float) -> np.ndarray:
    """Rotates about the centre, like ``RandomRotation``: bilinear, reflected at the edges.

    Args:
      image: float32 (H, W, 3).
      turns: a fraction of a full circle; positive is counter-clockwise.

    Returns:
      float32 (H, W, 3).
    """
    height, width = image.shape[:2]
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    x, y = np.arange(width, dtype=F32), np.arange(height, dtype=F32)[:, None]
    right, down = F32(cx - cx * cosine + cy * sine), F32(cy - cx * sine - cy * cosine)
    # A flipped image is a NumPy view, which every block would copy.
    image = np.ascontiguousarray(image)
    result = np.empty_like(image)
    for block in _blocks(height, width):
        columns = F32(cosine) * x - F32(sine) * y[block] + right
        rows = F32(sine) * x + F32(cosine) * y[block] + down
        result[block] = _sampled(image, rows, columns)
    return result


def zoomed(image: np.ndarray, height_zoom: float, width_zoom: float) -> np.ndarray:
    """Zooms about the centre, like ``RandomZoom``: bilinear, reflected at the edges.

    Args:
      image: float32 (H, W, 3).
      height_zoom: rows of the image per row of the result; above 1 zooms out.
      width_zoom: likewise for columns.

    Returns:
      float32 (H, W, 3).
    """
    rows, columns = (
        F32(zoom) * np.arange(side, dtype=F32) + F32((side - 1) / 2) * (F32(1) - F32(zoom))
        for zoom, side in zip((height_zoom, width_zoom), image.shape[:2], strict=True)
    )
    return _resampled(image, rows, columns)


def shifted(image: np.ndarray, down: float, right: float) -> np.ndarray:
    """Shifts, like ``RandomTranslation``: bilinear, reflected at the edges.

    Args:
      image: float32 (H, W, 3).
      down: a fraction of the height; negative shifts up.
      right: a fraction of the width; negative shifts to the left.

    Returns:
      float32 (H, W, 3).
    """
    rows, columns = (
        np.arange(side, dtype=F32) - F32(share * side)
        for share, side in zip((down, right), image.shape[:2], strict=True)
    )
    return _resampled(image, rows, columns)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes, like ``Resizing``: bilinear between pixel centres, not antialiased.

    Args:
      image: float32 (h, w, 3).
      height: in pixels.
      width: in pixels.

    Returns:
      float32 (height, width, 3).
    """
    rows, columns = (
        np.clip((np.arange(new, dtype=F32) + F32(0.5)) * F32(old / new) - F32(0.5), 0, old - 1)
        for new, old in zip((height, width), image.shape[:2], strict=True)
    )
    return _resampled(image, rows, columns)


def contrasted(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance of levels from their channel's mean, like ``RandomContrast``.

    Args:
      image: float32 (H, W, 3).
      factor: 1 changes nothing, below 1 flattens.

    Returns:
      float32 (H, W, 3), clipped to 0 to 255.
    """
    # Summed in float64, so that the order of summation does not change the result.
    mean = image.mean(axis=(0, 1), dtype=np.float64).astype(F32)
    return np.clip((image - mean) * F32(factor) + mean, F32(0), F32(255))


def _blocks(height: int, width: int) -> Iterator[slice]:
    """Yields blocks of rows in turn."""
    step = max(1, BLOCK_PIXELS // width)
    for start in range(0, height, step):
        yield slice(start, start + step)


def _sampled(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolates at coordinates float32 (h, w): float32 (h, w, 3)."""
    height, width = image.shape[:2]
    left, right, *across = _neighbours(columns, width)
    above, below, *along = _neighbours(rows, height)
    pixels = image.reshape(-1, 3)
    lines = []
    for row in (above, below):
        start = row * width
        ends = pixels.take(start + left, axis=0), pixels.take(start + right, axis=0)
        lines.append(_mixed(*ends, *(weight[..., None] for weight in across)))
    return _mixed(*lines, *(weight[..., None] for weight in along))


def _resampled(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolates at every pair of a row and a column: float32 (len(rows), len(columns), 3)."""
    image = np.ascontiguousarray(image)
    left, right, *across = _neighbours(columns, image.shape[1])
    above, below, *along = _neighbours(rows, image.shape[0])
    result = np.empty((len(rows), len(columns), 3), F32)
    for block in _blocks(*result.shape[:2]):
        lines = []
        for row in (above, below):
            line = image.take(row[block], axis=0)
            ends = line.take(left, axis=1), line.take(right, axis=1)
            lines.append(_mixed(*ends, *(weight[:, None] for weight in across)))
        result[block] = _mixed(*lines, *(weight[block, None, None] for weight in along))
    return result


def _mixed(
    lower: np.ndarray, upper: np.ndarray, lower_weight: np.ndarray, upper_weight: np.ndarray
) -> np.ndarray:
    """Returns the weighted sum of two arrays, in the memory of the first."""
    lower *= lower_weight
    upper *= upper_weight
    lower += upper
    return lower


def _reflected(coordinates: np.ndarray, side: int) -> np.ndarray:
    """Maps coordinates into 0 to side - 1 by reflection: ``d c b a | a b c d | d c b a``.

    The rule and its float32 arithmetic are TensorFlow's (`FILL_REFLECT` in
    tensorflow/core/kernels/image/image_ops.h).
    """
    period = F32(2 * side)
    result = coordinates.copy()
    before, beyond = coordinates < 0, coordinates > side - 1
    values = coordinates[before]
    values = period * np.trunc(-values / period) + values
    result[before] = np.where(values < -side, values + period, -values - F32(1))
    values = coordinates[beyond]
    values = values - period * np.trunc(values / period)
    result[beyond] = np.where(values >= side, period - values - F32(1), values)
    return np.clip(result, F32(0), F32(side - 1))


def _neighbours(
    coordinates: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (lower index, upper index, lower weight, upper weight) of reflected coordinates."""
    inside = _reflected(coordinates, side)
    floor = np.floor(inside)
    lower = floor.astype(np.intp)
    upper = np.minimum(lower + 1, side - 1)
    return lower, upper, floor + F32(1) - inside, inside - floor
