"""Compares the images themselves: two thumbnails of the same picture agree, upright or mirrored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from classifier.inputs.sources import Missed, StoredRow, read_sources
from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage
from classifier.reporting.pictures import stored_row
from featurestore.errors import HoarfrostError
from featurestore.spec import PixelSpec

SIDE = 16
# Images are decoded at this side and averaged, so that small and large versions are as smooth.
DECODED = 4 * SIDE
# Levels (of 255): a thumbnail that varies less has no picture in it to be compared.
FLAT = 1.0


def decoded_images(
    records: Mapping[int, Mapping[str, Any]],
    spec_of: Callable[[Mapping[str, Any]], PixelSpec],
    storage_options: Mapping[str, Any],
) -> dict[int, np.ndarray]:
    """Reads images again; returns uint8 (H, W, 3) of those that can be read.

    Args:
      records: number -> columns of a row, see `rows.image_records`.
      spec_of: returns how the image of a record is decoded.
      storage_options: for the images' file systems.
    """
    rows = {number: stored_row(record) for number, record in records.items()}
    # Side by side, images of one archive share one pass over it.
    order = sorted(rows, key=lambda number: (shard_uri(rows[number]), number))
    numbers = {rows[number].key: number for number in order}
    found = {}
    for _, group in itertools.groupby(order, key=lambda number: shard_uri(rows[number])):
        # A source that cannot be opened leaves out its own images only.
        with suppress(HoarfrostError, OSError, ValueError, ImportError):
            for row, data in read_sources([rows[number] for number in group], storage_options):
                number = numbers[row.key]
                with suppress(BadImage):
                    if not isinstance(data, Missed):
                        found[number] = decode(data, spec_of(records[number])).pixels
    return found


def shard_uri(row: StoredRow) -> str:
    """Returns the address of the archive that holds a row's image, "" for a single file."""
    return row.shard.uri if row.shard else ""


def thumbnails(
    records: Mapping[int, Mapping[str, Any]], exif: str, storage_options: Mapping[str, Any]
) -> dict[int, np.ndarray]:
    """Reads images again, and returns those that can be read as float32 (SIDE, SIDE, 3).

    Args:
      records: row number -> its columns, see `rows.image_records`.
      exif: of the store's pixels.
      storage_options: for the images' file systems.
    """

    found = decoded_images(records, lambda record: _thumbnail_spec(record, exif), storage_options)
    return {row: _averaged(pixels) for row, pixels in found.items()}


def _thumbnail_spec(record: Mapping[str, Any], exif: str) -> PixelSpec:
    # Means of areas suit images that shrink; those that grow would get steps.
    resize = "area" if min(record["width"], record["height"]) >= DECODED else "bilinear"
    return PixelSpec((DECODED, DECODED), "squash", resize, "white", exif)


def _averaged(pixels: np.ndarray) -> np.ndarray:
    step = DECODED // SIDE
    blocks = pixels.reshape(SIDE, step, SIDE, step, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def likeness(one: np.ndarray, other: np.ndarray) -> tuple[float, bool]:
    """Returns the correlation of two thumbnails, and whether one of them is best mirrored.

    Colours and contrast may differ by a factor; two flat images are alike if their colours are.

    Args:
      one: float32 (SIDE, SIDE, 3).
      other: the same.

    Example:
      >>> ramp = np.repeat(np.arange(16.0), 48).reshape(16, 16, 3).transpose(1, 0, 2)
      >>> likeness(ramp, ramp[:, ::-1])[1], round(likeness(ramp, ramp)[0], 3)
      (True, 1.0)
    """
    if one.std() < FLAT or other.std() < FLAT:
        same = one.std() < FLAT and other.std() < FLAT
        difference = np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max()
        return (1.0 if same and difference < 4 * FLAT else 0.0), False
    a, b = ((image - image.mean()) / image.std() for image in (one, other))
    upright, mirrored = float((a * b).mean()), float((a * b[:, ::-1]).mean())
    return max(upright, mirrored), mirrored > upright + 1e-6


def likenesses(
    pairs: Iterable[tuple[int, int]], found: Mapping[int, np.ndarray]
) -> dict[tuple[int, int], tuple[float, bool]]:
    """Returns the likeness of each pair of rows, both of whose images were read."""
    return {
        pair: likeness(found[pair[0]], found[pair[1]])
        for pair in pairs
        if pair[0] in found and pair[1] in found
    }
