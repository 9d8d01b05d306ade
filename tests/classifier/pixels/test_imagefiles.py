"""What is checked of an image file before it is decoded."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage, check_strips
from featurestore.spec import PixelSpec

PHOTO = load_sample_images().images[0]  # uint8 (427, 640, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_whole_tiffs_pass(mode, compression):
    grey = Image.fromarray(PHOTO).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
    image = deep if mode == "I;16" else Image.fromarray(PHOTO).convert(mode)
    sink = io.BytesIO()
    image.save(sink, "TIFF", compression=compression)
    assert decode(sink.getvalue(), PixelSpec((32, 32))).width == 640


@pytest.mark.parametrize("compression", [1, 5, 8])  # none, LZW, Deflate
def test_tiffs_of_many_strips_pass(compression):
    flags = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 10]
    data = cv2.imencode(".tiff", PHOTO[..., ::-1], flags)[1].tobytes()
    with Image.open(io.BytesIO(data)) as image:
        assert len(image.tag_v2[273]) == 43
    assert np.array_equal(decode(data, PixelSpec((427, 640))).pixels, PHOTO)


RGB = {256: 640, 257: 427, 258: (8, 8, 8), 259: 1, 262: 2, 277: 3}
TILES = {**RGB, 322: 256, 323: 256}


@pytest.mark.parametrize(
    "tags",
    [
        {**RGB, 273: (8,), 279: (640 * 427 * 3,)},
        {**RGB, 273: (8,), 279: (0,)},  # some writers leave the sizes out
        {**RGB, 273: (8,), 278: 2**32 - 1},
        {**RGB, 273: (8, 9, 10), 279: (640 * 427,) * 3, 284: 2},
        {**TILES, 324: (8,) * 6},
        {**TILES, 324: (8,) * 18, 284: 2},
        {256: 9, 257: 2, 259: 1, 262: 0, 273: (8,), 279: (4,)},  # one bit a pixel
    ],
)
def test_enough_strips_pass(tags):
    check_strips(tags)


@pytest.mark.parametrize(
    "tags",
    [
        {**RGB, 273: (8,), 279: (640 * 427 * 3 - 1,)},
        {**RGB, 273: (8,), 278: 426},
        {**RGB, 273: (8, 9), 284: 2},
        {**RGB, 273: (8, 9, 10), 279: (640 * 427, 1, 1), 284: 2},
        {**TILES, 324: (8,) * 5},
        {**TILES, 324: (8,) * 17, 284: 2},
        dict(RGB),
    ],
)
def test_missing_strips_are_told(tags):
    with pytest.raises(BadImage, match="truncated: TIFF: 640x427 takes"):
        check_strips(tags)
