"""Decodes image files in a TensorFlow graph, to exactly the pixels of `classifier.pixels.decoder`.

An exported model that takes encoded images is only right if it sees the pixels that the base saw
in training. Where TensorFlow's decoders cannot give these, the file is refused.
"""

from __future__ import annotations

from typing import Any

from classifier.exporting.resizing import METHODS, resize_graph
from featurestore.spec import PixelSpec

_REFUSED = (
    "TensorFlow cannot decode this image to the pixels that the model was trained on: it is none "
    "of JPEG, PNG and GIF, or a GIF whose first frame has transparency or does not fill it; decode "
    "it yourself and call serving_default"
)
# Of the GIF format: a block of an extension, that with the transparency, and a frame.
_EXTENSION, _CONTROL, _FRAME = 0x21, 0xF9, 0x2C


def obstacle(spec: PixelSpec) -> str:
    """Returns why a graph cannot give the pixels of a spec, or "" if it can."""
    if spec.resize not in METHODS:
        owner = "Pillow" if spec.resize.startswith("pillow-") else "OpenCV"
        return f"--resize {spec.resize} is {owner}'s own, and TensorFlow has no equal"
    if spec.shorter_side is not None:
        return f"--fit {spec.fit} resizes before it cuts, which no graph of ours does"
    if spec.exif != "ignore":
        return f"--exif {spec.exif} needs the file's metadata, which TensorFlow does not read"
    if spec.alpha != "drop":
        return f"--alpha {spec.alpha} needs transparency, which TensorFlow's JPEG and GIF lack"
    return ""


def decode_graph(data: Any, spec: PixelSpec) -> Any:
    """Decodes one image file.

    Args:
      data: string scalar tensor, the whole file.
      spec: target size and rules, without an `obstacle`.

    Returns:
      uint8 tensor (H, W, 3). The graph fails with InvalidArgumentError for other file types.
    """
    import tensorflow as tf

    def refused() -> Any:
        with _required(tf.constant(False)):
            return tf.zeros((1, 1, 3), tf.uint8)

    def jpeg() -> Any:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    def gif() -> Any:
        with _required(_is_filled(tf.io.decode_raw(data, tf.uint8))):
            return tf.io.decode_gif(data)[0]

    def begins(mark: bytes) -> Any:
        return tf.equal(tf.strings.substr(data, 0, len(mark)), mark)

    kinds = [
        (begins(b"\xff\xd8\xff"), jpeg),
        (begins(b"\x89PNG\r\n\x1a\n"), lambda: tf.io.decode_png(data, channels=3)),
        (begins(b"GIF8"), gif),
    ]
    return resize_graph(tf.case(kinds, default=refused), spec)


def _required(condition: Any) -> Any:
    import tensorflow as tf

    return tf.control_dependencies([tf.debugging.Assert(condition, [_REFUSED])])


def _is_filled(data: Any) -> Any:
    """Returns whether the first frame of a GIF is opaque and as large as the image.

    TensorFlow makes the other pixels black, and Pillow takes their colour from the palette.

    Args:
      data: uint8 tensor (n,), the whole file.
    """
    import tensorflow as tf

    values = tf.cast(data, tf.int32)
    palette = tf.where(values[10] >= 128, 3 * tf.bitwise.left_shift(2, values[10] % 8), 0)

    def go_on(place: Any, inside: Any, clear: Any) -> Any:
        return inside | (values[place] == _EXTENSION)

    def step(place: Any, inside: Any, clear: Any) -> Any:
        # An extension is a mark, a label, and blocks that each begin with their length, the last
        # with 0. The lowest bit behind a control's length says that it has a transparent colour.
        length = values[place]
        control = ~inside & (values[place + 1] == _CONTROL)
        shown = control & (values[place + 3] % 2 == 1)
        place += tf.where(inside, length + 1, 2)
        return place, ~inside | (length > 0), clear | shown

    begin = 13 + palette, tf.constant(False), tf.constant(False)
    place, _, clear = tf.while_loop(go_on, step, begin)
    frame = values[place : place + 9]
    corner = tf.reduce_all(frame[1:5] == 0) & tf.reduce_all(frame[5:] == values[6:10])
    return ~clear & corner & (frame[0] == _FRAME)
