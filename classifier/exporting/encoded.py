"""Decodes image files in a TensorFlow graph, to exactly the pixels of `classifier.pixels.decoder`.

An exported model that takes encoded images is only right if it sees the pixels that the base saw
in training. Where TensorFlow's decoders cannot give these, the file is refused.
"""

from __future__ import annotations

from typing import Any

from classifier.exporting.resizing import METHODS, resize_graph
from featurestore.spec import PixelSpec

_REFUSED = (
    "the image is none of JPEG, PNG and GIF, or a GIF with transparent pixels, which TensorFlow "
    "would decode to other pixels than this model was trained on; decode it yourself and call "
    "serving_default"
)


def obstacle(spec: PixelSpec) -> str:
    """Returns why a graph cannot give the pixels of a spec, or "" if it can."""
    if spec.resize not in METHODS:
        return f"--resize {spec.resize} is OpenCV's own, and TensorFlow has no equal"
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
        with tf.control_dependencies([tf.debugging.Assert(False, [_REFUSED])]):
            return tf.zeros((1, 1, 3), tf.uint8)

    def jpeg() -> Any:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    def gif() -> Any:
        return tf.io.decode_gif(data)[0]

    def begins(mark: bytes) -> Any:
        return tf.equal(tf.strings.substr(data, 0, len(mark)), mark)

    kinds = [
        (begins(b"\xff\xd8\xff"), jpeg),
        (begins(b"\x89PNG\r\n\x1a\n"), lambda: tf.io.decode_png(data, channels=3)),
        (begins(b"GIF8"), gif),
    ]
    return resize_graph(tf.case(kinds, default=refused), spec)
