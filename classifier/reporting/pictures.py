"""Reads source images again and makes small pictures of them for the page.

A source may be gone, changed, slow or unreachable. Reading stops at a time limit and never fails:
the page shows the reason in place of a missing picture.
"""

from __future__ import annotations

import base64
import io
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.inputs.sources import Missed, StoredRow, read_sources, shard_of
from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage
from featurestore.errors import HoarfrostError, one_line
from featurestore.spec import PixelSpec

if TYPE_CHECKING:
    from PIL import Image

# Twice the width of a tile, for screens of high resolution.
SIDE = 240
SMALL = 64
SECONDS = 20.0
_ROW = ("key", "uri", "size", "etag", "content_hash")


@dataclass(frozen=True)
class Picture:
    """An image in the page, or the reason why it is missing.

    Attributes:
      source: a ``data:`` URI, "" for a missing image.
      width: in pixels.
      height: in pixels.
      reason: why the image is missing, else "".
    """

    source: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def small(self) -> bool:
        """Whether the page should enlarge it with sharp pixels."""
        return 0 < max(self.width, self.height) <= SMALL


Show = Callable[[StoredRow, bytes | Missed], Picture]


def pictures_of(
    images: Sequence[Mapping[str, Any]],
    pixels: PixelSpec,
    storage_options: Mapping[str, Any],
    seconds: float = SECONDS,
) -> dict[str, Picture]:
    """Reads images again, until all are read or the time is over.

    Args:
      images: records of mistakes: a row's columns, and ``shard``, the source of its archive or
        None.
      pixels: of the store; decides on orientation.
      storage_options: for the images' file systems.
      seconds: time limit; later images are left out.

    Returns:
      content hash -> picture, for each of `images`.
    """
    by_hash = {image["content_hash"]: image for image in images}

    def show(row: StoredRow, data: bytes | Missed) -> Picture:
        return _picture(data, by_hash[row.content_hash], pixels)

    rows = {content_hash: stored_row(image) for content_hash, image in by_hash.items()}
    return shown_in_time(rows, show, storage_options, seconds)


def shown_in_time(
    rows: Mapping[str, StoredRow], show: Show, storage_options: Mapping[str, Any], seconds: float
) -> dict[str, Picture]:
    """Reads the images of rows again, until all are read or the time is over.

    Args:
      rows: name -> row, whose image is wanted.
      show: makes a picture of an image's bytes, or of the reason why they cannot be had.
      storage_options: for the images' file systems.
      seconds: time limit; later images are left out.

    Returns:
      name -> picture, for each of `rows`.
    """
    late = Picture(reason=f"not read within {seconds:g} seconds")
    results: dict[str, Picture] = {}
    # A daemon thread: a read that hangs must not keep the process alive.
    reader = threading.Thread(
        target=_read_all, args=(rows, show, storage_options, results), daemon=True
    )
    reader.start()
    reader.join(seconds)
    return dict.fromkeys(rows, late) | dict(results)


def _read_all(
    rows: Mapping[str, StoredRow],
    show: Show,
    storage_options: Mapping[str, Any],
    results: dict[str, Picture],
) -> None:
    def source(named: tuple[str, StoredRow]) -> str:
        row = named[1]
        return row.shard.uri if row.shard else row.uri

    # Grouped by source: an archive is read once for all of its images.
    for _, group in itertools.groupby(sorted(rows.items(), key=source), key=source):
        names = {id(row): name for name, row in group}
        try:
            for row, data in read_sources([rows[name] for name in names.values()], storage_options):
                results[names[id(row)]] = show(row, data)
        except (HoarfrostError, OSError, ValueError, ImportError) as error:
            missing = [name for name in names.values() if name not in results]
            results.update(dict.fromkeys(missing, Picture(reason=one_line(error))))


def stored_row(image: Mapping[str, Any]) -> StoredRow:
    """Returns the row of a record, without its features; see `pictures_of` for records."""
    columns = {name: image[name] for name in _ROW}
    shard = shard_of(image.get("shard") or {})
    return StoredRow(**columns, view=0, features=np.empty(0, np.float32), shard=shard)


def _picture(data: bytes | Missed, image: Mapping[str, Any], pixels: PixelSpec) -> Picture:
    if isinstance(data, Missed):
        return Picture(reason=data.message.removesuffix("; --prune drops its row"))
    try:
        shown = decode(data, _tile(image, pixels)).pixels
    except BadImage as error:
        return Picture(reason=one_line(error))
    height, width = shown.shape[:2]
    return Picture(_data_uri(shown), width, height)


def _tile(image: Mapping[str, Any], pixels: PixelSpec) -> PixelSpec:
    """Returns the pixel spec of a tile: the whole image in its own proportions."""
    width, height = image["width"], image["height"]
    if pixels.exif == "apply":
        # Only decoding shows which side of the upright image is longer.
        size = min(SIDE, max(width, height))
        return PixelSpec((size, size), "pad", "area", "white", "apply")
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return PixelSpec(size, "squash", "area", "white", "ignore")


def _data_uri(pixels: np.ndarray) -> str:
    from PIL import Image

    return picture_uri(Image.fromarray(pixels))


def picture_uri(image: Image.Image) -> str:
    """Returns an image as a ``data:`` URI: a small one exactly, a larger one as JPEG."""
    sink = io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(sink, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(sink, "JPEG", quality=80, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}"
