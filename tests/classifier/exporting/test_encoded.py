"""A graph decodes image files to exactly our decoder's pixels, or refuses them."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from support.images import encode

from classifier.exporting.encoded import decode_graph, obstacle
from classifier.exporting.resizing import METHODS
from classifier.pixels.decoder import decode
from classifier.runtime import import_keras
from featurestore.fields import FITS, PixelSpec

PHOTO = Image.fromarray(load_sample_images().images[0])  # 640 x 427
KINDS = {
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg progressive": ("RGB", "JPEG", {"progressive": True, "quality": 60}),
    "jpeg grey": ("L", "JPEG", {}),
    "jpeg cmyk": ("CMYK", "JPEG", {}),
    "jpeg cmyk progressive": ("CMYK", "JPEG", {"progressive": True}),
    "jpeg 4:4:4": ("RGB", "JPEG", {"subsampling": 0}),
    "jpeg 4:2:2": ("RGB", "JPEG", {"subsampling": 1, "quality": 30}),
    "jpeg restarts": ("RGB", "JPEG", {"restart_marker_blocks": 3}),
    "png": ("RGB", "PNG", {}),
    "png palette": ("P", "PNG", {}),
    "png grey": ("L", "PNG", {}),
    "png black and white": ("1", "PNG", {}),
    "png transparent": ("RGBA", "PNG", {}),
    "png palette transparent": ("P", "PNG", {"transparency": 9}),
    "png grey 16": ("I;16", "PNG", {}),
    "gif": ("P", "GIF", {}),
    "gif interlaced": ("P", "GIF", {"interlace": 1}),
}


@pytest.fixture(scope="module")
def tf():
    import_keras()
    import tensorflow

    return tensorflow


def decoder(tf, spec):
    graph = tf.function(
        lambda data: decode_graph(data, spec), input_signature=[tf.TensorSpec((), tf.string)]
    )
    return lambda data: graph(tf.constant(data)).numpy()


def image_of(rng, size, mode):
    """A part of a photograph or noise, in any mode."""
    if rng.random() < 0.3:
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    else:
        image = PHOTO.resize(size)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, size[::-1], np.uint8)))
    return image


def files(rng, count, longest):
    """Yields (description, bytes): every kind in turn, of sides from 1 to `longest` pixels."""
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        mode, name, settings = KINDS[kind]
        # As many small sides as large ones.
        size = tuple(int(side) for side in np.exp(rng.uniform(0, np.log(longest + 1), 2)))
        sink = io.BytesIO()
        image_of(rng, size, mode).save(sink, name, **settings)
        yield f"{kind} {size}", sink.getvalue()


def assert_equal_pixels(tf, spec, found):
    decoded = decoder(tf, spec)
    for what, data in found:
        np.testing.assert_array_equal(decoded(data), decode(data, spec).pixels, what)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("method", METHODS)
def test_pixels_are_equal(tf, method, fit):
    spec = PixelSpec((64, 91), fit=fit, resize=method)
    assert_equal_pixels(tf, spec, files(np.random.default_rng(0), 2 * len(KINDS), 700))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (7, 3)])
def test_pixels_are_equal_at_odd_targets(tf, size):
    for fit in FITS:
        spec = PixelSpec(size, fit=fit)
        assert_equal_pixels(tf, spec, files(np.random.default_rng(1), len(KINDS), 50))


def test_an_image_of_the_target_size_stays_as_it_is(tf):
    pixels = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    for method in METHODS:
        decoded = decoder(tf, PixelSpec((20, 30), resize=method))
        np.testing.assert_array_equal(decoded(encode(pixels, "PNG")), pixels)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_pixels_of_a_thousand_files_are_equal(tf, method):
    rng = np.random.default_rng(3)
    specs = [
        PixelSpec(size, fit=fit, resize=method) for fit in FITS for size in ((224, 224), (180, 97))
    ]
    for spec in specs:
        assert_equal_pixels(tf, spec, files(rng, 170, 3000))


def transparent_gif():
    image = PHOTO.resize((40, 30)).convert("RGBA")
    opacity = np.zeros((30, 40), np.uint8)
    opacity[:, ::2] = 255
    image.putalpha(Image.fromarray(opacity))
    sink = io.BytesIO()
    image.save(sink, "GIF")
    return sink.getvalue()


def small_frame_gif():
    sink = io.BytesIO()
    PHOTO.resize((40, 30)).convert("P").save(sink, "GIF", comment=b"a comment")
    data = bytearray(sink.getvalue())
    data[6:10] = (60).to_bytes(2, "little") + (45).to_bytes(2, "little")
    return bytes(data)


def test_what_cannot_be_equal_is_refused(tf):
    decoded = decoder(tf, PixelSpec((32, 32)))
    pixels = np.zeros((8, 8, 3), np.uint8)
    others = [encode(pixels, kind) for kind in ("BMP", "WEBP", "TIFF")]
    for data in (*others, transparent_gif(), small_frame_gif(), b"", b"no image"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="call serving_default"):
            decoded(data)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(encode(pixels, "PNG")[:40])


def test_a_spec_that_a_graph_cannot_follow_is_named():
    assert not obstacle(PixelSpec((8, 8), fit="pad", resize="bicubic"))
    assert "--resize area" in obstacle(PixelSpec((8, 8), resize="area"))
    assert "--exif apply" in obstacle(PixelSpec((8, 8), exif="apply"))
    assert "--alpha white" in obstacle(PixelSpec((8, 8), alpha="white"))
