"""Small pictures of quarantined images, as far as their bytes show anything.

Such files are damaged, and some are hostile. Only small files are read, their size in pixels is
checked before anything is decoded, and reading stops at a time limit.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.inputs.sources import Missed, StoredRow, shard_of
from classifier.reporting.pictures import SIDE, Picture, picture_uri, shown_in_time
from featurestore.units import size_text
from pipelines.finishing.page.material import BadImage

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 10.0
MOST_BYTES, MOST_PIXELS = 32 << 20, 40_000_000
SHOWN_BYTES = 16


def thumbnails(
    images: Iterable[BadImage], storage_options: Mapping[str, Any], seconds: float = SECONDS
) -> dict[str, Picture]:
    """Reads quarantined images again.

    Args:
      images: a bounded number of them.
      storage_options: for their file systems.
      seconds: time limit; later images are left out.

    Returns:
      uri -> picture, or the reason why there is none, for each of `images`.
    """
    rows, large = {}, {}
    for image in images:
        uri, size = image.row["uri"], image.row["size"]
        if size > MOST_BYTES:
            large[uri] = Picture(reason=f"not read: it has {size_text(size)}")
        else:
            rows[uri] = _row(image)
    return large | shown_in_time(rows, _show, storage_options, seconds)


def _row(image: BadImage) -> StoredRow:
    columns = {name: image.row[name] for name in ("key", "uri", "size", "etag")}
    nothing = np.empty(0, np.float32)
    shard = shard_of(image.shard)
    return StoredRow(**columns, content_hash="", view=0, features=nothing, shard=shard)


def _show(_: StoredRow, data: bytes | Missed) -> Picture:
    return (
        Picture(reason=data.message.partition(";")[0]) if isinstance(data, Missed) else look(data)
    )


def look(data: bytes) -> Picture:
    """Returns what can be seen of a damaged file: the part that decodes, or else its first bytes.

    Args:
      data: the whole file.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return Picture(reason=f"{opened.width:,} x {opened.height:,} pixels")
            shown = _damaged_jpeg(data) if opened.format == "JPEG" else opened.convert("RGB")
        shown.thumbnail((SIDE, SIDE))
        return Picture(picture_uri(shown), *shown.size)
    # Pillow's decoders raise errors of any class for damaged files.
    except Exception:
        return Picture(reason=first_bytes(data))


def _damaged_jpeg(data: bytes) -> Image.Image:
    """Decodes as much of a JPEG as there is; the rest is grey."""
    import simplejpeg
    from PIL import Image

    pixels = simplejpeg.decode_jpeg(data, min_height=SIDE, min_width=SIDE, strict=False)
    return Image.fromarray(pixels)


def first_bytes(data: bytes) -> str:
    """Describes bytes that are no image.

    Example:
      >>> first_bytes(b"<html>")
      '6 bytes: 3c 68 74 6d 6c 3e'
      >>> first_bytes(b"")
      '0 bytes'
    """
    shown = data[:SHOWN_BYTES].hex(" ")
    more = " ..." if len(data) > SHOWN_BYTES else ""
    return size_text(len(data)) + (f": {shown}{more}" if shown else "")
