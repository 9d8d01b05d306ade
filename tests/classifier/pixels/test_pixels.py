"""Bytes to pixels, against TensorFlow and Keras as the truth."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images
from support.optional import optional

from classifier.pixels import decoder as pixels
from classifier.pixels import rasters
from classifier.pixels import resize as resizing
from classifier.pixels.filetypes import BAD_KINDS, BadImage, sniff
from featurestore.spec import PixelSpec

PHOTO = load_sample_images().images[0]  # uint8 (427, 640, 3)


@pytest.fixture(scope="module")
def tf():
    return optional("tensorflow")


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_is(array, **options):
    return PixelSpec(array.shape[:2], **options)


def bad_kind(data, **options):
    with pytest.raises(BadImage) as caught:
        pixels.decode(data, PixelSpec((32, 32)), **options)
    assert caught.value.kind in BAD_KINDS
    assert "\n" not in caught.value.message
    return caught.value.kind


def levels_apart(ours, theirs):
    return int(np.abs(ours.astype(int) - np.clip(np.rint(theirs), 0, 255).astype(int)).max())


SIZES = [(180, 180), (64, 200), (427, 640), (500, 700), (600, 100), (97, 801), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("source", ["photo", "tiny"])
@pytest.mark.parametrize(
    "method, allowed", [("bilinear", 1), ("area", 1), ("nearest", 0), ("bicubic", 0)]
)
def test_resize_is_tensorflows(tf, method, allowed, source, size):
    image = PHOTO if source == "photo" else PHOTO[100:108, 200:208]
    ours = resizing.resize(image, PixelSpec(size, resize=method))
    theirs = tf.image.resize(image, size, method=method, antialias=False).numpy()
    assert ours.shape == (*size, 3) and ours.dtype == np.uint8 and ours.flags.c_contiguous
    assert levels_apart(ours, theirs) <= allowed


@pytest.mark.parametrize("shape", [(427, 640), (200, 100), (101, 33), (50, 50), (30, 200)])
@pytest.mark.parametrize("size", [(180, 180), (120, 200), (77, 31)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_fit_is_that_of_image_dataset_from_directory(tmp_path, fit, size, shape):
    import keras

    image = PHOTO[: shape[0], : shape[1]]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(encoded(image, "PNG"))
    flag = {"crop": "crop_to_aspect_ratio", "pad": "pad_to_aspect_ratio"}[fit]
    dataset = keras.utils.image_dataset_from_directory(
        tmp_path, labels=None, image_size=size, batch_size=1, verbose=False, **{flag: True}
    )
    theirs = next(iter(dataset)).numpy()[0]
    assert levels_apart(resizing.resize(image, PixelSpec(size, fit=fit)), theirs) <= 1


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("colorspace", ["RGB", "GRAY"])
def test_jpeg_is_tensorflows_accurate_dct(tf, colorspace, subsampling):
    image = PHOTO if colorspace == "RGB" else PHOTO[..., :1]
    if colorspace == "GRAY":
        subsampling = "Gray"
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), 85, colorspace=colorspace, colorsubsampling=subsampling
    )
    theirs = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(pixels.decode(data, as_is(PHOTO)).pixels, theirs)


def test_progressive_jpeg_is_tensorflows(tf):
    data = encoded(PHOTO, "JPEG", progressive=True)
    theirs = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(pixels.decode(data, as_is(PHOTO)).pixels, theirs)


def test_size_is_that_of_the_file():
    decoded = pixels.decode(encoded(PHOTO, "JPEG"), PixelSpec((18, 24)))
    assert (decoded.width, decoded.height, decoded.pixels.shape) == (640, 427, (18, 24, 3))


@pytest.mark.parametrize(
    "kind, options", [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_give_their_pixels(kind, options):
    data = encoded(PHOTO, kind, **options)
    assert sniff(data) == kind.lower()
    np.testing.assert_array_equal(pixels.decode(data, as_is(PHOTO)).pixels, PHOTO)


def test_gif_gives_its_first_frame():
    frames = [Image.fromarray(PHOTO).quantize(64), Image.fromarray(PHOTO[::-1]).quantize(64)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = np.asarray(frames[0].convert("RGB"))
    assert sniff(data) == "gif"
    np.testing.assert_array_equal(pixels.decode(data, as_is(PHOTO)).pixels, expected)


def test_palette_and_one_bit():
    palette = Image.fromarray(PHOTO).quantize(32)
    got = pixels.decode(encoded(palette, "PNG"), as_is(PHOTO)).pixels
    np.testing.assert_array_equal(got, np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(PHOTO).convert("1")
    got = pixels.decode(encoded(bits, "PNG"), as_is(PHOTO)).pixels
    np.testing.assert_array_equal(got, np.asarray(bits.convert("RGB")))
    assert set(np.unique(got)) == {0, 255}


def png16(array, colour, transparent=None):
    """Encodes uint16 (h, w, c) as PNG: Pillow writes no 16-bit colour."""
    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (b"" if transparent is None else chunk(b"tRNS", transparent))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels, colour", [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_16_bit_png_keeps_its_high_bytes_as_tensorflow_does(tf, channels, colour):
    array = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    data = png16(array, colour)
    got = pixels.decode(data, as_is(array)).pixels
    np.testing.assert_array_equal(got, tf.io.decode_png(data, channels=3).numpy())


@pytest.mark.parametrize("alpha, expected", [("drop", 100), ("white", 193), ("black", 40)])
def test_alpha(alpha, expected):
    rgba = np.full((5, 6, 4), (100, 100, 100, 102), np.uint8)  # 40% opaque
    data = encoded(rgba, "PNG")
    got = pixels.decode(data, as_is(rgba, alpha=alpha)).pixels
    assert np.unique(got).tolist() == [expected]


@pytest.mark.parametrize("alpha, ground", [("drop", 3), ("white", 255), ("black", 0)])
@pytest.mark.parametrize("colour", [0, 2])
def test_the_transparent_value_of_16_bit_png(alpha, ground, colour):
    channels = 3 if colour else 1
    array = np.full((2, 3, channels), 0x0364, np.uint16)
    array[1] = 0x4000
    data = png16(array, colour, struct.pack(">H", 0x0364) * channels)
    got = pixels.decode(data, as_is(array, alpha=alpha)).pixels
    assert np.unique(got[0]).tolist() == [ground] and np.unique(got[1]).tolist() == [0x40]


def test_32_bit_grey_is_refused_whatever_its_values():
    for value in (7, 70_000):
        image = Image.fromarray(np.full((9, 9), value, np.int32))
        assert image.mode == "I"
        assert bad_kind(encoded(image, "TIFF")) == "undecodable"


def test_16_bit_tiff_keeps_its_high_bytes():
    array = np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)
    got = pixels.decode(encoded(Image.fromarray(array), "TIFF"), PixelSpec((8, 16))).pixels
    np.testing.assert_array_equal(got, np.repeat((array >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
@pytest.mark.parametrize("alpha", ["drop", "white"])
def test_strips_give_what_the_whole_gives(monkeypatch, mode, alpha):
    rgba = np.dstack([PHOTO[:50, :70], PHOTO[50:100, :70, :1]])
    image = Image.fromarray(rgba).convert(mode)
    if mode in ("P", "L"):
        image.info["transparency"] = 7
    whole = rasters.to_rgb(image, alpha)
    monkeypatch.setattr(rasters, "STRIP_PIXELS", 7 * 70 + 3)
    np.testing.assert_array_equal(rasters.to_rgb(image, alpha), whole)


@pytest.mark.parametrize("alpha", ["drop", "black"])
def test_a_large_transparent_image_takes_little_more_than_itself(alpha):
    image = Image.new("RGBA", (3000, 3000), (1, 2, 3, 128))
    tracemalloc.start()
    pixels_ = rasters.to_rgb(image, alpha)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < pixels_.nbytes + 40 * rasters.STRIP_PIXELS


def quietly_decoded(tmp_path, *files):
    """Decodes files in a fresh process that shows warnings; returns their kinds and its stderr."""
    for number, data in enumerate(files):
        (tmp_path / str(number)).write_bytes(data)
    code = """
import sys
from pathlib import Path
from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage
from featurestore.spec import PixelSpec
for name in sys.argv[1:]:
    try:
        decode(Path(name).read_bytes(), PixelSpec((8, 8)))
        print("good")
    except BadImage as error:
        print(error.kind)
"""
    names = [str(number) for number in range(len(files))]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_damaged_files_write_nothing_to_the_terminal(tmp_path):
    damaged = []
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        image = Image.fromarray(PHOTO)
        image = image.convert("1") if compression == "group4" else image
        data = bytearray(encoded(image, "TIFF", compression=compression))
        data[len(data) // 3 : len(data) // 3 + 2000] = bytes(range(250)) * 8
        damaged.append(bytes(data))
    huge = bytearray(encoded(PHOTO[:9, :9], "PNG"))
    huge[16:24] = struct.pack(">II", 10_000, 10_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    kinds, shown = quietly_decoded(tmp_path, *damaged, bytes(huge))
    assert shown == "" and kinds[-1] == "too_large" and "undecodable" in kinds


def test_cmyk_jpeg_is_near_tensorflows(tf):
    data = encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=95)
    got = pixels.decode(data, as_is(PHOTO)).pixels
    theirs = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert levels_apart(got, theirs) <= 2
    assert np.abs(got.astype(int) - PHOTO).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, "JPEG", exif=exif)
    plain = pixels.decode(data, as_is(PHOTO)).pixels
    # Pillow says which way is up; its own decoder may differ in the last level.
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    got = pixels.decode(data, as_is(turned, exif="apply"))
    assert (got.width, got.height) == (640, 427)
    assert np.abs(got.pixels.astype(int) - turned).mean() < 1
    assert np.abs(plain.astype(int) - PHOTO).mean() < 10


def test_png_named_jpg_decodes_because_names_do_not_count():
    np.testing.assert_array_equal(pixels.decode(encoded(PHOTO, "PNG"), as_is(PHOTO)).pixels, PHOTO)


@pytest.mark.parametrize("left", [3, 20, 400, 5_000, -1_000, -10, -2, -1])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated(kind, left):
    data = encoded(PHOTO, kind)[:left]
    assert bad_kind(data) in (
        ("truncated",) if left > 8 or left < 0 else ("truncated", "not_an_image")
    )


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF"])
def test_half_a_file_of_other_formats(kind):
    data = encoded(PHOTO, kind)
    assert bad_kind(data[: len(data) // 2]) in ("truncated", "undecodable")


def test_padding_before_a_jpegs_end_is_harmless(tf):
    data = encoded(PHOTO, "JPEG")
    padded = data[:-2] + bytes(100) + data[-2:]
    theirs = tf.io.decode_jpeg(padded, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(pixels.decode(padded, as_is(PHOTO)).pixels, theirs)


def with_odd_scan(data):
    """Sets the spectral selection of a baseline JPEG's scan, which is 0 to 63, to 0 to 0."""
    at = data.index(b"\xff\xda")
    field = at + 5 + 2 * data[at + 4]
    assert data[field : field + 3] == b"\0\x3f\0"
    return data[: field + 1] + b"\0" + data[field + 2 :]


@pytest.mark.parametrize("gray", [False, True])
def test_odd_scan_parameters_of_a_jpeg_are_harmless(tf, gray):
    data = encoded(PHOTO[..., 0] if gray else PHOTO, "JPEG")
    odd = with_odd_scan(data)
    theirs = tf.io.decode_jpeg(odd, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(pixels.decode(odd, as_is(PHOTO)).pixels, theirs)


def test_a_harmless_oddity_hides_no_damage():
    data = encoded(PHOTO, "JPEG")
    assert bad_kind(with_odd_scan(data)[:-5000]) == "truncated"
    # Padding before a restart marker, half a picture later the file ends.
    restarts = encoded(PHOTO, "JPEG", restart_marker_rows=4)
    at = restarts.index(b"\xff\xd0", restarts.index(b"\xff\xda"))
    assert bad_kind((restarts[:at] + bytes(50) + restarts[at:])[:-5000]) == "truncated"


def test_every_kind_of_bad_image():
    png = bytearray(encoded(PHOTO[:9, :9], "PNG"))
    assert bad_kind(b"") == "empty"
    assert bad_kind(b"\0") == "not_an_image"
    assert bad_kind(b"<html>not found</html>") == "not_an_image"
    assert bad_kind(encoded(PHOTO, "PNG"), max_pixels=640 * 427 - 1) == "too_large"
    assert bad_kind(encoded(PHOTO, "JPEG"), max_pixels=640 * 427 - 1) == "too_large"
    broken = png.copy()
    broken[45:60] = bytes(15)
    assert bad_kind(bytes(broken)) in ("undecodable", "truncated")
    assert bad_kind(b"\xff\xd8\xff" + bytes(100) + b"\xff\xd9") == "undecodable"
    assert bad_kind(b"RIFF\4\0\0\0WEBPnonsense") == "undecodable"
    nothing = png.copy()
    nothing[16:20] = bytes(4)
    nothing[29:33] = struct.pack(">I", zlib.crc32(bytes(nothing[12:29])))
    assert bad_kind(bytes(nothing)) == "zero_size"
    huge = png.copy()
    huge[16:24] = struct.pack(">II", 60_000, 60_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    assert bad_kind(bytes(huge)) == "too_large"
    assert bad_kind(encoded(Image.new("F", (9, 9)), "TIFF")) == "undecodable"


def test_one_pixel():
    data = encoded(np.full((1, 1, 3), 7, np.uint8), "PNG")
    assert np.unique(pixels.decode(data, PixelSpec((8, 9), fit="crop")).pixels).tolist() == [7]


def test_bad_image_survives_pickling_between_processes():
    import pickle

    copy = pickle.loads(pickle.dumps(BadImage("empty", "why")))
    assert (copy.kind, copy.message) == ("empty", "why")


def test_threads_decode_alike():
    from concurrent.futures import ThreadPoolExecutor

    data = [encoded(PHOTO[i:], kind) for i in range(8) for kind in ("JPEG", "PNG")]
    spec = PixelSpec((50, 60))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: pixels.decode(item, spec).pixels, data))
    alone = [pixels.decode(item, spec).pixels for item in data]
    np.testing.assert_array_equal(np.stack(together), np.stack(alone))


def test_decoder_label_names_the_libraries():
    assert set(pixels.decoder_versions()) == {"simplejpeg", "pillow", "opencv"}
    assert f"simplejpeg-{simplejpeg.__version__}" in pixels.decoder_label()
