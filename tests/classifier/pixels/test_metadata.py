"""Metadata of image files: it turns pixels where that is asked for, and decides nothing else."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from support.images import encode
from support.optional import optional

from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage, sniff
from classifier.pixels.metadata import orientation, without_metadata
from classifier.pixels.tiffs import orientation_tag, pixel_tiff, read_directory
from featurestore.spec import PixelSpec

PHOTO = np.ascontiguousarray(load_sample_images().images[0][100:148, 200:264])  # 64x48
LARGE = zlib.compress(b"A" * (2 << 20))
FEW = settings(max_examples=60, deadline=None, derandomize=True)


def read(data, **spec):
    return decode(data, PixelSpec(PHOTO.shape[:2], **spec)).pixels


def exif_of(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def upright(pixels, value):
    """Turns pixels as Pillow turns a PNG of them."""
    data = encode(pixels, "PNG", exif=exif_of(value))
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


def png_chunk(name, body, damage=0):
    sum_ = zlib.crc32(name + body) ^ damage
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", sum_)


def jpeg_segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def tiff(pixels, order="<", is_big=False, tags=(), tile=None, tail=True):
    """Writes a TIFF: uint8 or uint16 (h, w, c), of one strip or of tiles; `tags` are inline shorts.

    Args:
      order: of bytes.
      is_big: whether it is a BigTIFF.
      tags: more of them, (number, value) or (number, type, count, field).
      tile: side of the tiles.
      tail: whether the offset of a next directory follows.
    """
    height, width, channels = pixels.shape
    values = pixels.astype(pixels.dtype.newbyteorder(order))
    blocks = [values.tobytes()]
    if tile:
        down, across = -(-height // tile), -(-width // tile)
        room = np.zeros((down * tile, across * tile, channels), values.dtype)
        room[:height, :width] = values
        blocks = [
            room[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile].tobytes()
            for y in range(down)
            for x in range(across)
        ]
    head = 16 if is_big else 8
    body, offsets = b"", []
    for block in blocks:
        offsets.append(head + len(body))
        body += block + bytes(len(block) % 2)
    number, kind, room = ("Q", 16, 8) if is_big else ("L", 4, 4)
    count = "Q" if is_big else "H"
    entries = []

    def add(tag, type_, values):
        nonlocal body
        code = {3: "H", 4: "L", 16: "Q"}[type_]
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > room:
            field = struct.pack(f"{order}{number}", head + len(body))
            body += packed
        else:
            field = packed.ljust(room, b"\0")
        entries.append(struct.pack(f"{order}HH{number}", tag, type_, len(values)) + field)

    bits = 8 * values.dtype.itemsize
    photometric = {1: 1, 3: 2, 4: 5}[channels]
    for tag, value in ((256, width), (257, height), (259, 1), (262, photometric), (277, channels)):
        add(tag, 3, [value])
    add(258, 3, [bits] * channels)
    sizes = [len(block) for block in blocks]
    if tile:
        for tag, value in ((322, tile), (323, tile)):
            add(tag, 3, [value])
        add(324, kind, offsets)
        add(325, kind, sizes)
    else:
        add(273, kind, offsets)
        add(278, 3, [height])
        add(279, kind, sizes)
    for tag in tags:
        if len(tag) == 2:
            add(tag[0], 3, [tag[1]])
        else:
            entries.append(struct.pack(f"{order}HH{number}", *tag[:3]) + tag[3].ljust(room, b"\0"))
    entries.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    version = struct.pack(f"{order}HHH", 43, 8, 0) if is_big else struct.pack(f"{order}H", 42)
    magic = (b"II" if order == "<" else b"MM") + version
    directory = struct.pack(f"{order}{count}", len(entries)) + b"".join(entries)
    end = bytes(room) if tail else b""
    return magic + struct.pack(f"{order}{number}", head + len(body)) + body + directory + end


def turned_files(value):
    """Returns the photo, stored as it is, with an orientation, in every format that can say it."""
    exif = exif_of(value)
    palette = Image.fromarray(PHOTO).quantize(64)
    xmp = f'<x tiff:Orientation="{value}"/>'.encode()
    webp = encode(PHOTO, "WEBP", lossless=True, exif=exif)
    raw = (
        b"\n exif\n  99\n" + (b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")).hex().encode()
    )
    png, bare = encode(PHOTO, "PNG"), exif.tobytes().removeprefix(b"Exif\0\0")
    raw_text = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
    files = {
        "jpeg": encode(PHOTO, "JPEG", quality=95, exif=exif),
        "jpeg-xmp": encode(PHOTO, "JPEG", quality=95, xmp=xmp),
        "png": encode(PHOTO, "PNG", exif=exif),
        "png-behind": png[:-12] + png_chunk(b"eXIf", bare) + png[-12:],
        "png-raw": png[:33] + raw_text + png[33:],
        "png-xmp": png[:33] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + png[33:],
        "webp": webp,
        "tiff": encode(PHOTO, "TIFF", exif=exif),
        "tiff-xmp": encode(PHOTO, "TIFF", tiffinfo={700: xmp}),
        "tiff-lzw": encode(PHOTO, "TIFF", exif=exif, compression="tiff_lzw"),
        "tiff-palette": encode(np.asarray(palette.convert("RGB")), "TIFF", exif=exif),
        "tiff-tiles": tiff(PHOTO, tile=16, tags=[(274, value)]),
        "tiff-big": tiff(PHOTO, is_big=True, tags=[(274, value)]),
        "tiff-big-endian": tiff(PHOTO, ">", tags=[(274, value)]),
    }  # fmt: skip
    sink = io.BytesIO()
    palette.save(sink, "TIFF", exif=exif)
    files["tiff-palette"] = sink.getvalue()
    sink = io.BytesIO()
    pages = [Image.fromarray(PHOTO[::-1]), Image.fromarray(PHOTO[:, ::-1])]
    Image.fromarray(PHOTO).save(sink, "TIFF", exif=exif, save_all=True, append_images=pages)
    return {**files, "tiff-pages": sink.getvalue()}


@pytest.mark.parametrize("value", range(1, 9))
def test_an_orientation_acts_once_and_only_where_asked_for(value):
    plain = turned_files(1)
    for name, data in turned_files(value).items():
        stored = read(plain[name])
        if not name.startswith(("jpeg", "tiff-palette")):
            assert np.array_equal(stored, PHOTO), name
        ignored = decode(data, PixelSpec((48, 64), exif="ignore"))
        assert np.array_equal(ignored.pixels, stored), name
        turned = upright(stored, value)
        applied = decode(data, PixelSpec(turned.shape[:2], exif="apply"))
        assert np.array_equal(applied.pixels, turned), name
        assert (applied.width, applied.height) == (ignored.width, ignored.height) == (64, 48), name
        assert np.array_equal(
            np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).shape[:2],
            turned.shape[:2],
        ), name


@pytest.mark.parametrize("value", [3, 6, 8])
@pytest.mark.parametrize("mode", ["I;16", "CMYK", "L", "1", "RGBA"])
def test_tiffs_of_every_mode_are_turned_once(mode, value):
    grey = np.asarray(Image.fromarray(PHOTO).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) << 8)
    image = deep if mode == "I;16" else Image.fromarray(PHOTO).convert(mode)
    sinks = {key: io.BytesIO() for key in (1, value)}
    for key, sink in sinks.items():
        image.save(sink, "TIFF", exif=exif_of(key))
    stored = read(sinks[1].getvalue())
    data = sinks[value].getvalue()
    assert np.array_equal(read(data), stored)
    turned = upright(stored, value)
    got = decode(data, PixelSpec(turned.shape[:2], exif="apply"))
    assert np.array_equal(got.pixels, turned) and (got.width, got.height) == (64, 48)


@pytest.mark.parametrize("bad", [0, 9, 6000])
def test_an_orientation_that_is_none_turns_nothing(bad):
    for name, data in turned_files(6).items():
        if name in ("png", "tiff", "webp", "jpeg"):
            wrong = data.replace(
                struct.pack("<HHL", 274, 3, 1) + b"\6\0", struct.pack("<HHLH", 274, 3, 1, bad)
            )
            wrong = wrong.replace(
                struct.pack(">HHL", 274, 3, 1) + b"\0\6", struct.pack(">HHLH", 274, 3, 1, bad)
            )
            assert wrong != data and orientation(wrong, sniff(wrong)) == 1, name


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"gAMA"])
@pytest.mark.parametrize("body", ["large", "checksum", "junk", "empty"])
@pytest.mark.parametrize("where", [33, -12])
def test_ancillary_chunks_of_png_decide_nothing(name, body, where):
    large = {b"iTXt": b"k\0\1\0\0\0" + LARGE, b"tEXt": b"k\0" + b"A" * (2 << 20)}
    bodies = {
        "large": large.get(name, b"k\0\0" + LARGE),
        "checksum": b"k\0\0\0\0\0text",
        "junk": b"\xff" * 9,
        "empty": b"",
    }
    png = encode(PHOTO, "PNG")
    chunk = png_chunk(name, bodies[body], damage=body == "checksum")
    data = png[:where] + chunk + png[where:]
    for exif in ("ignore", "apply"):
        assert np.array_equal(read(data, exif=exif), PHOTO)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1], PHOTO)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_damaged_critical_chunks_of_png_stay_undecodable(name):
    sink = io.BytesIO()
    Image.fromarray(PHOTO).quantize(32).save(sink, "PNG")
    data = bytearray(sink.getvalue())
    at = data.index(name)
    data[at + 4 + struct.unpack(">I", data[at - 4 : at])[0]] ^= 1
    with pytest.raises(BadImage, match=f"undecodable: PNG: its {name.decode()} chunk"):
        read(bytes(data))


def test_a_damaged_transparency_counts_only_where_it_is_asked_for():
    png = encode(PHOTO, "PNG")
    data = png[:33] + png_chunk(b"tRNS", bytes(6), damage=1) + png[33:]
    assert np.array_equal(read(data), PHOTO)
    with pytest.raises(BadImage, match="its tRNS chunk has a wrong checksum"):
        read(data, alpha="white")


def test_an_orientation_of_a_damaged_chunk_turns_nothing():
    png, exif = encode(PHOTO, "PNG"), exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    data = png[:33] + png_chunk(b"eXIf", exif, damage=1) + png[33:]
    assert np.array_equal(read(data, exif="apply"), PHOTO)


def test_the_limit_of_pixels_holds_whatever_the_metadata():
    png = bytearray(encode(PHOTO[:9, :9], "PNG"))
    png[16:24] = struct.pack(">II", 20_000, 20_000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    data = bytes(png[:33]) + png_chunk(b"zTXt", b"k\0\0" + LARGE) + bytes(png[33:])
    with pytest.raises(BadImage, match="too_large"):
        read(data)


SEGMENTS = {
    "exif": jpeg_segment(0xE1, b"Exif\0\0junk and more"),
    "xmp": jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe"),
    "profile": jpeg_segment(0xE2, b"ICC_PROFILE\0"),
    "profile-part": jpeg_segment(0xE2, b"ICC_PROFILE\0\5\1part") * 3,
    "photoshop": jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"),
    "jfif": jpeg_segment(0xE0, b"JFIF\0"),
    "adobe": jpeg_segment(0xEE, b"Adobe"),
    "pages": jpeg_segment(0xE2, b"MPF\0junk"),
    "comments": jpeg_segment(0xFE, b"x" * 65_000) * 40,
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_of_jpeg_decide_nothing(name):
    for mode in ("RGB", "L", "CMYK"):
        sink = io.BytesIO()
        Image.fromarray(PHOTO).convert(mode).save(sink, "JPEG", quality=95)
        plain = sink.getvalue()
        for exif in ("ignore", "apply"):
            got = read(plain[:2] + SEGMENTS[name] + plain[2:], exif=exif)
            assert np.array_equal(got, read(plain)), (mode, exif)


def test_damage_beside_an_orientation_does_not_hide_it():
    jpeg = encode(PHOTO, "JPEG", exif=exif_of(6))
    for name in ("profile", "jfif", "adobe"):
        assert orientation(jpeg[:2] + SEGMENTS[name] + jpeg[2:], "jpeg") == 6


def test_metadata_of_webp_decides_nothing():
    plain = encode(PHOTO, "WEBP", lossless=True)
    rich = encode(
        PHOTO, "WEBP", lossless=True, exif=b"Exif\0\0junk", icc_profile=b"j" * 9, xmp=b"x" * 99
    )
    at = rich.rindex(b"XMP ")
    longer = rich[: at + 4] + struct.pack("<I", 5_000) + rich[at + 8 :]
    for data in (plain, rich, longer, rich.replace(b"ICCP", b"ICCX")):
        assert np.array_equal(read(data, exif="apply"), PHOTO)
    assert orientation(longer, "webp") == 1


@pytest.mark.parametrize(
    "extension",
    [b"\xff\x0bNETSCAPE2.0\0", b"\xff\0", b"\xff\3abc\0", b"\xfe\0", b"\1\x0c" + bytes(12) + b"\0"],
)
def test_extensions_of_gif_decide_nothing(extension):
    plain = encode(np.asarray(Image.fromarray(PHOTO).quantize(64).convert("RGB")), "GIF")
    at = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
    got = read(plain[:at] + b"\x21" + extension + plain[at:])
    assert np.array_equal(got, read(plain))


def test_a_long_comment_of_a_gif_never_reaches_pillow():
    plain = encode(np.asarray(Image.fromarray(PHOTO).quantize(64).convert("RGB")), "GIF")
    at = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
    comment = b"\x21\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0"
    data = plain[:at] + comment + plain[at:]
    # Pillow copies what it has for every block: 17 seconds.
    assert without_metadata(data, "gif", "drop") == plain
    assert np.array_equal(read(data), read(plain))


BAD_TAGS = [
    (34675, 7, 9_999, struct.pack("<L", 1 << 30)),  # a profile beyond the end
    (34665, 4, 1, struct.pack("<L", 3)),  # EXIF in the middle of the header
    (34853, 2, 4, b"abc\0"),
    (282, 99, 1, b"\0"),  # no such type
    (282, 5, 1, struct.pack("<L", 8)),
    (33432, 2, 1 << 31, struct.pack("<L", 8)),
    (48129, 3, 1, b"\1"),  # taken for a Windows Media Photo by Pillow
    (296, 2, 2, b"z\0"),
    (330, 4, 1, struct.pack("<L", 8)),
]


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("tag", BAD_TAGS, ids=lambda tag: str(tag[0]))
def test_tags_of_tiff_decide_nothing(tag, is_big):
    data = tiff(PHOTO, is_big=is_big, tags=[tag, (274, 6)])
    assert np.array_equal(read(data), PHOTO)
    turned = upright(PHOTO, 6)
    got = decode(data, PixelSpec(turned.shape[:2], exif="apply")).pixels
    assert np.array_equal(got, turned)


@pytest.mark.parametrize("tag", [(317, 99, 1, b"\2"), (317, 3, 9_999, struct.pack("<L", 1 << 30))])
def test_a_tag_that_pixels_need_is_never_left_out(tag):
    with pytest.raises(BadImage, match="its tag 317"):
        read(tiff(PHOTO, tags=[tag]))


def test_a_tiff_whose_pages_go_in_a_circle_is_its_first():
    data = tiff(PHOTO)
    directory = struct.unpack("<L", data[4:8])[0]
    circle = data[:-4] + struct.pack("<L", directory)
    assert np.array_equal(read(circle, exif="apply"), PHOTO)
    assert np.array_equal(read(tiff(PHOTO, tail=False)), PHOTO)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tile", [None, 16, 48])
@pytest.mark.parametrize("channels, depth", [(3, "u1"), (1, "u1"), (1, "u2"), (4, "u1")])
def test_tiffs_of_64_bits_are_those_of_32(order, tile, channels, depth):
    random = np.random.default_rng(0)
    array = random.integers(0, np.iinfo(depth).max, (48, 64, channels)).astype(depth)
    big, small = (tiff(array, order, is_big, tile=tile) for is_big in (True, False))
    assert sniff(big) == sniff(small) == "tiff"
    got = read(big)
    assert np.array_equal(got, read(small))
    if channels < 4:
        values = (array >> 8).astype(np.uint8) if depth == "u2" else array
        assert np.array_equal(got, np.broadcast_to(values, got.shape))


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("cut", [1, 9, 40, 200, 5_000])
def test_nothing_stands_in_for_the_cut_end_of_a_tiff(is_big, cut):
    data = tiff(PHOTO, is_big=is_big)
    # The same, with its pixels behind the directory.
    head, strip = ("<HHQQ", 16) if is_big else ("<HHLL", 8)
    kind = 16 if is_big else 4
    old, new = (struct.pack(head, 273, kind, 1, at) for at in (strip, len(data)))
    whole = data.replace(old, new) + PHOTO.tobytes()
    assert np.array_equal(read(whole), PHOTO)
    with pytest.raises(BadImage):
        read(whole[:-cut])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_bmp_without_its_file_header_is_read(mode):
    sink = io.BytesIO()
    image = Image.fromarray(PHOTO).convert(mode)
    image.save(sink, "DIB")
    data = sink.getvalue()
    assert sniff(data[:16]) == "bmp"
    assert np.array_equal(read(data), np.asarray(image.convert("RGB")))
    with pytest.raises(BadImage, match="truncated|undecodable"):
        read(data[: len(data) // 2])
    nothing = data[:4] + bytes(4) + data[8:]
    with pytest.raises(BadImage, match="zero_size"):
        read(nothing)


def test_cmyk_without_adobes_marker_is_read_as_with_it():
    """As Pillow and browsers do; TensorFlow takes it for ink, and gives the negative."""
    tf = optional("tensorflow")
    sink = io.BytesIO()
    Image.fromarray(PHOTO).convert("CMYK").save(sink, "JPEG", quality=95)
    data = sink.getvalue()
    at = data.index(b"\xff\xee")
    bare = data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
    assert b"Adobe" in data and b"Adobe" not in bare
    assert np.array_equal(read(bare), read(data))
    theirs = tf.io.decode_jpeg(bare, channels=3, dct_method="INTEGER_ACCURATE").numpy().astype(int)
    assert np.abs(theirs - read(bare)).mean() > 50


@FEW
@given(
    st.sampled_from(
        [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"pHYs", b"sRGB", b"acTL"]
    ),
    st.binary(max_size=60),
    st.booleans(),
    st.booleans(),
)
def test_any_ancillary_chunk_leaves_the_pixels(name, body, damaged, behind):
    png = encode(PHOTO, "PNG")
    where = -12 if behind else 33
    data = png[:where] + png_chunk(name, body, damaged) + png[where:]
    assert np.array_equal(read(data), PHOTO)
    assert orientation(data, "png") in range(1, 9)


@FEW
@given(
    st.integers(0xE0, 0xEF), st.binary(max_size=60), st.sampled_from([b"", b"Exif\0\0", b"JFIF\0"])
)
def test_any_segment_leaves_the_pixels_of_cmyk(marker, body, start):
    sink = io.BytesIO()
    Image.fromarray(PHOTO).convert("CMYK").save(sink, "JPEG")
    plain = sink.getvalue()
    data = plain[:2] + jpeg_segment(marker, start + body) + plain[2:]
    assert np.array_equal(read(data), read(plain))
    assert orientation(data, "jpeg") in range(1, 9)


@FEW
@given(st.binary(max_size=200), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
def test_any_bytes_are_a_directory_or_none(body, magic):
    data = magic + body
    read_directory(data)
    assert orientation_tag(data) is None or orientation_tag(data) >= 0
    try:
        assert len(pixel_tiff(data)) <= len(data) + 8
    except (BadImage, struct.error):
        pass
    with pytest.raises(BadImage):
        read(data)
