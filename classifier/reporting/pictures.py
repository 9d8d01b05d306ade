"""Small pictures of source images, read again from where they came from, for the page.

Sources may be gone, changed, slow or on a network that is down. None of that may cost more than a
time limit, and none of it fails: what is not to be had is named in the picture's place.
"""

from __future__ import annotations

import base64
import io
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.inputs.sources import Missed, StoredRow, read_sources, shard_of
from classifier.pixels.decode import decode
from classifier.pixels.filetypes import BadImage
from featurestore.errors import HoarfrostError, one_line
from featurestore.spec import PixelSpec

# Twice as many pixels as a tile is wide, for sharp screens.
SIDE = 240
SMALL = 64
SECONDS = 20.0
_ROW = ("key", "uri", "size", "etag", "content_hash")


@dataclass(frozen=True)
class Picture:
    """An image as the page holds it, or the reason why it does not.

    Attributes:
      source: a ``data:`` URI, "" for none.
      width: in pixels.
      height: in pixels.
      reason: why there is none, else "".
    """

    source: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def small(self) -> bool:
        """Whether enlarging should show its pixels rather than blur them."""
        return 0 < max(self.width, self.height) <= SMALL


def pictures_of(
    images: Sequence[Mapping[str, Any]],
    pixels: PixelSpec,
    storage_options: Mapping[str, Any],
    seconds: float = SECONDS,
) -> dict[str, Picture]:
    """Reads images again, as long as it takes or until the time is up.

    Args:
      images: records of mistakes: a row's columns, and ``shard``, the source of its archive or
        None.
      pixels: of the store; decides on orientation.
      storage_options: for the images' file systems.
      seconds: after which what has not come is left out.

    Returns:
      content hash -> picture, one for each of `images`.
    """
    late = Picture(reason=f"not read within {seconds:g} seconds")
    found = {image["content_hash"]: late for image in images}
    results: dict[str, Picture] = {}
    # Daemonic: a read that hangs must not keep the process from ending.
    reader = threading.Thread(
        target=_read_all, args=(images, pixels, storage_options, results), daemon=True
    )
    reader.start()
    reader.join(seconds)
    return found | dict(results)


def _read_all(
    images: Sequence[Mapping[str, Any]],
    pixels: PixelSpec,
    storage_options: Mapping[str, Any],
    results: dict[str, Picture],
) -> None:
    def source(image: Mapping[str, Any]) -> str:
        return image["shard"]["uri"] if image.get("shard") else image["uri"]

    # By source: an archive is read once for all of its images.
    for _, group in itertools.groupby(sorted(images, key=source), key=source):
        together = {image["content_hash"]: image for image in group}
        rows = [_row(image) for image in together.values()]
        try:
            for row, data in read_sources(rows, storage_options):
                image = together.pop(row.content_hash)
                results[row.content_hash] = _picture(data, image, pixels)
        except (HoarfrostError, OSError, ValueError, ImportError) as error:
            reason = one_line(error)
            results.update(dict.fromkeys(together, Picture(reason=reason)))


def _row(image: Mapping[str, Any]) -> StoredRow:
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
    """Returns how a source becomes a tile: the whole image, in its own proportions."""
    width, height = image["width"], image["height"]
    if pixels.exif == "apply":
        # Which side is the longer one is known only when it stands upright.
        size = min(SIDE, max(width, height))
        return PixelSpec((size, size), "pad", "area", "white", "apply")
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return PixelSpec(size, "squash", "area", "white", "ignore")


def _data_uri(pixels: np.ndarray) -> str:
    from PIL import Image

    sink = io.BytesIO()
    image = Image.fromarray(pixels)
    if max(image.size) <= SMALL:
        image.save(sink, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(sink, "JPEG", quality=80, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}"
